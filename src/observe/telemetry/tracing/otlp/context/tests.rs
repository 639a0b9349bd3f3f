use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, HeaderValue::from_str(value).expect("a header value"));
    }
    headers
}

fn read(traceparent: &str) -> Option<String> {
    let parent = parent(&headers(&TRACEPARENT, &[traceparent]))?;
    assert!(parent.is_remote() && parent.trace_state().header().is_empty());
    Some(format!("{}-{}-{:02x}", parent.trace_id(), parent.span_id(), parent.trace_flags().to_u8()))
}

/// Returns the `tracestate` that is kept for headers with these values.
fn kept(values: &[&str]) -> String {
    let parent = parse_parent(format!("00-{TRACE}-{SPAN}-01").as_bytes()).expect("a parent");
    let context = with_state(&parent, &headers(&TRACESTATE, values));
    assert_eq!((context.trace_id(), context.span_id()), (parent.trace_id(), parent.span_id()));
    context.trace_state().header()
}

#[test]
fn traceparent_is_parsed_by_the_rules_of_its_version() {
    for (text, flags) in [
        (format!("00-{TRACE}-{SPAN}-01"), "01"),
        (format!("00-{TRACE}-{SPAN}-00"), "00"),
        (format!("00-{TRACE}-{SPAN}-ff"), "03"),
        (format!("cc-{TRACE}-{SPAN}-01"), "01"),
        (format!("01-{TRACE}-{SPAN}-01-what-follows"), "01"),
    ] {
        assert_eq!(read(&text), Some(format!("{TRACE}-{SPAN}-{flags}")), "{text}");
    }
    for text in [
        String::new(),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-01 "),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("01-{TRACE}-{SPAN}-01.more"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}_{SPAN}-01"),
        format!("0x-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-0g"),
        format!("00-+{}-{SPAN}-01", &TRACE[1..]),
    ] {
        assert_eq!(read(&text), None, "{text}");
    }
    let one = format!("00-{TRACE}-{SPAN}-01");
    assert!(parent(&headers(&TRACEPARENT, &[&one, &one])).is_none(), "two parents");
    assert!(parent(&HeaderMap::new()).is_none());
}

#[test]
fn tracestate_is_kept_up_to_512_bytes_and_then_loses_members() {
    assert_eq!(kept(&["a=1, b=2\t,,c=3"]), "a=1,b=2,c=3");
    assert_eq!(kept(&["a=1", "b=2"]), "a=1,b=2", "in parts");
    assert_eq!(kept(&["t@v=1,x=y z"]), "t@v=1,x=y z");
    // Members of 64 bytes with their comma: eight of them are 511 bytes.
    let members: Vec<String> = (10..20).map(|number| format!("{number:0>2}").replace('1', "a")).collect();
    let members: Vec<String> =
        members.iter().map(|key| format!("{key}={}", "v".repeat(63 - key.len() - 1))).collect();
    assert_eq!(kept(&[&members[..8].join(",")]), members[..8].join(","));
    assert_eq!(kept(&[&members.join(",")]), members[..8].join(","), "removed from the end");
    // Large members go first, from the end.
    let large = format!("large={}", "v".repeat(200));
    let all = [&[large.clone()][..], &members[..6]].concat().join(",");
    assert_eq!(kept(&[&all]), members[..6].join(","));
    assert_eq!(kept(&[&format!("{large},a=1")]), format!("{large},a=1"), "they are kept if they fit");
}

#[test]
fn malformed_tracestate_is_dropped() {
    let many = (0..33).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
    for text in [
        "a",
        "a=",
        "=1",
        "a=1,a=2",
        "A=1",
        "a=1,b",
        "a=b=c",
        "a b=1",
        "_a=1",
        &many,
        &format!("a={}", "v".repeat(257)),
    ] {
        assert_eq!(kept(&[text]), "", "{text}");
    }
    assert_eq!(kept(&["a=1", "b"]), "", "in any part");
}

#[test]
fn injected_context_is_parsed_back() {
    let parent = parse_parent(format!("00-{TRACE}-{SPAN}-01").as_bytes()).expect("a parent");
    let context = with_state(&parent, &headers(&TRACESTATE, &["a=1,b=2"]));
    let mut sent = HeaderMap::new();
    inject(&context, &mut sent);
    assert_eq!(sent["traceparent"], format!("00-{TRACE}-{SPAN}-01"));
    assert_eq!(sent["tracestate"], "a=1,b=2");
    inject(&SpanContext::empty_context(), &mut sent);
    assert_eq!(sent["traceparent"], format!("00-{TRACE}-{SPAN}-01"), "nothing is injected without a span");
}

proptest! {
    #[test]
    fn any_headers_stay_within_the_bounds(
        parents in prop::collection::vec("[0-9a-f-]{50,60}|\\PC{0,80}", 0..3),
        states in prop::collection::vec("([a-z@_*/-]{0,20}=?[ -~]{0,300},?){0,40}", 0..4),
    ) {
        let mut headers = HeaderMap::new();
        for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
            for value in values.iter().filter_map(|value| HeaderValue::from_str(value).ok()) {
                headers.append(&name, value);
            }
        }
        prop_assert!(parent(&headers).is_none_or(|parent| parent.is_valid()));
        let parent = parse_parent(format!("00-{TRACE}-{SPAN}-01").as_bytes()).expect("a parent");
        let state = with_state(&parent, &headers).trace_state().header();
        prop_assert!(state.len() <= MAX_STATE_BYTES);
    }

    #[test]
    fn well_formed_tracestate_keeps_its_first_small_members(
        values in prop::collection::vec("[!-+\\--<>-~]{1,256}", 0..=32),
    ) {
        let members: Vec<String> =
            values.iter().enumerate().map(|(number, value)| format!("k{number}={value}")).collect();
        let kept = kept(&[&members.join(",")]);
        prop_assert!(kept.len() <= MAX_STATE_BYTES);
        let mut rest = members.iter();
        for member in kept.split(',').filter(|member| !member.is_empty()) {
            prop_assert!(rest.any(|other| other == member), "whole members in their order");
        }
        prop_assert_eq!(kept.is_empty(), members.is_empty() || members.iter().all(|member| member.len() > 512));
    }
}
