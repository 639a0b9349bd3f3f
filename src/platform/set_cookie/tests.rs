//! Cookies as servers and proxies send them, and arbitrary bytes.

use std::time::Duration;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::{
    base::clock::{self, MAX_TIMESTAMP},
    domain::call::Deadline,
    observe::telemetry::logging::captured::CapturedLog,
};

const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn headers<T: AsRef<[u8]>>(values: &[T]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(SET_COOKIE, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
    }
    headers
}

fn set<T: AsRef<[u8]>>(values: &[T]) -> SetCookies {
    read(&headers(values), at(NOW))
}

/// Returns the session's header for the caller; asserts that there is no problem.
fn header<T: AsRef<[u8]>>(values: &[T]) -> String {
    let set = set(values);
    assert_eq!(set.problem, None);
    set.session.cookie_header().expose().to_owned()
}

/// Returns the bytes that log the session out, and the problem.
fn failed<T: AsRef<[u8]>>(values: &[T]) -> (Vec<u8>, CookieProblem) {
    let set = set(values);
    let header = set.session.logout_header();
    let bytes = header.map(|header| header.as_bytes().to_vec()).unwrap_or_default();
    (bytes, set.problem.expect("a problem"))
}

/// Returns the only cookie of that header.
fn only(text: &str) -> SessionCookie {
    let SetCookies { session, problem, .. } = set(&[text]);
    assert_eq!(problem, None, "{text}");
    let [cookie] = session.cookies() else { panic!("one cookie in {text}") };
    cookie.clone()
}

#[test]
fn attributes_are_kept() {
    let cookie = only(
        "sid=abc; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax; Expires=Sun, 06 Nov 1994 08:49:37 GMT",
    );
    assert_eq!((cookie.name.as_str(), cookie.value.expose()), ("sid", "abc"));
    assert_eq!((cookie.domain.as_str(), cookie.path.as_str()), ("example.com", "/"));
    assert!(cookie.http_only && cookie.secure && cookie.is_deletion);
    assert_eq!(cookie.same_site, "lax");
    assert_eq!(cookie.expires_at, Some(at(784_111_777)));
}

#[test]
fn a_bare_cookie_has_no_attributes() {
    let cookie = only("sid=abc");
    assert_eq!((cookie.domain.as_str(), cookie.path.as_str(), cookie.same_site.as_str()), ("", "", ""));
    assert!(!cookie.http_only && !cookie.secure && !cookie.is_deletion);
    assert_eq!(cookie.expires_at, None);
}

#[test]
fn attribute_names_ignore_case_and_surrounding_whitespace() {
    let cookie =
        only("\tsid = abc ;; PATH = /x ;\tsecure=false; httpONLY ;sAmESiTe=Odd;Partitioned;Priority=High; ");
    assert_eq!((cookie.name.as_str(), cookie.value.expose()), ("sid", "abc"));
    assert_eq!((cookie.path.as_str(), cookie.same_site.as_str()), ("/x", "odd"));
    assert!(cookie.http_only && cookie.secure);
}

#[test]
fn names_that_browsers_keep_are_kept() {
    for name in [
        "sid:v2",
        "session[id]",
        "a@b",
        "bad name",
        "k\"",
        "(x)",
        "a/b",
        "{x}",
        "__Host-sid",
        "\u{e4}",
        "a\tb",
        "$Path",
    ] {
        assert_eq!(header(&[format!("{name}=abc; Path=/")]), format!("{name}=abc"));
        assert_eq!(only(&format!("{name}=abc")).name, name);
    }
}

#[test]
fn values_come_out_exactly_as_sent() {
    assert_eq!(
        header(&[
            "a=\"quoted\"; Path=/",
            "b=x=y==",
            "c=%20%3B",
            "d=",
            "e=a b,c",
            "f=\u{e9}",
            "g=b\tc",
            "h={\"i\":1}"
        ]),
        "a=\"quoted\"; b=x=y==; c=%20%3B; d=; e=a b,c; f=\u{e9}; g=b\tc; h={\"i\":1}"
    );
}

#[test]
fn strings_that_are_not_cookies_are_ignored() {
    let values = ["good=1", "novalue", "=nameless", " = ", "; Path=/", "; a=b", "", "also=2"];
    assert_eq!(header(&values), "good=1; also=2");
}

#[test]
fn invalid_cookies_alone_are_a_problem_but_deletions_alone_are_not() {
    for values in [&["novalue"][..], &["=nameless; Path=/"], &["", ";"], &["novalue", "old=; Max-Age=0"]] {
        assert_eq!(failed(values), (Vec::new(), CookieProblem::NoneUsable), "{values:?}");
    }
    for values in [&[][..], &["old=; Max-Age=0"]] {
        let set = set::<&str>(values);
        assert!(set.problem.is_none() && set.session.is_empty(), "{values:?}");
    }
}

#[test]
fn cookie_that_is_not_text_is_a_problem_and_is_logged_out() {
    for bytes in [
        &b"sid=caf\xe9; Path=/"[..],
        b"s\xefd=abc",
        b"\xff\xfe=1",
        "sid=a\u{85}b".as_bytes(),
        "s\u{9b}d=a".as_bytes(),
    ] {
        let pair = bytes.split(|byte| *byte == b';').next().unwrap();
        assert_eq!(failed(&[bytes]), (pair.to_vec(), CookieProblem::NotTransferable));
        let (sent, problem) = failed(&[b"lang=en", bytes, b"last=2"]);
        assert_eq!(sent, [b"lang=en; last=2; ", pair].concat());
        assert_eq!(problem, CookieProblem::NotTransferable);
    }
}

#[test]
fn cookie_that_is_not_text_is_ignored_once_deleted_or_replaced() {
    assert_eq!(header(&[&b"sid=1"[..], b"old=caf\xe9; Max-Age=0"]), "sid=1");
    assert_eq!(header(&[&b"sid=1"[..], b"old=\xe9; Expires=Thu, 1 Jan 1970 00:00:00 UTC"]), "sid=1");
    assert_eq!(header(&[&b"sid=caf\xe9"[..], b"sid=cafe"]), "sid=cafe");
    assert_eq!(header(&[&b"lang=en"[..], b"s\xefd=1", b"s\xefd=; Max-Age=0"]), "lang=en");
    // With another path, both are kept.
    assert_eq!(failed(&[&b"sid=caf\xe9"[..], b"sid=; Path=/x; Max-Age=0"]).0, b"sid=caf\xe9");
}

#[test]
fn invalid_attributes_do_not_invalidate_the_cookie() {
    for attribute in [
        &b"Expires=soon"[..],
        b"Expires=",
        b"Expires",
        b"Expires=\xff\xfe",
        b"Expires=Wed, 30 Feb 2022 00:00:00 GMT",
        b"Max-Age=soon",
        b"Max-Age=",
        b"Max-Age=-",
        b"Max-Age=-1h",
        b"Max-Age=+60",
        b"Max-Age=1.5",
        b"Max-Age=0x0",
        b"Domain=\xe9.example",
        b"Domain=",
        b"Path=/caf\xe9",
        b"Path=/\tx",
        b"Path=elsewhere",
        b"Path=\"/\"",
        b"SameSite=\xff",
        b"Comment=caf\xe9",
        b"\xff\xff=\xff",
        b"=",
    ] {
        let set = set(&[[b"sid=abc; ", attribute, b"; HttpOnly"].concat()]);
        let [cookie] = set.session.cookies() else { panic!("one cookie") };
        assert_eq!((set.problem, set.session.cookie_header().expose()), (None, "sid=abc"));
        assert_eq!((cookie.expires_at, cookie.http_only), (None, true));
        assert_eq!((cookie.domain.as_str(), cookie.path.as_str(), cookie.same_site.as_str()), ("", "", ""));
    }
}

#[test]
fn last_valid_attribute_of_a_name_counts() {
    let cookie = only(
        "a=b; Path=/1; Path=/2; Domain=one; Domain=.two; Domain=; SameSite=Lax; SameSite=None; Max-Age=1; Max-Age=60; Max-Age=x",
    );
    assert_eq!((cookie.path.as_str(), cookie.domain.as_str()), ("/2", "two"));
    assert_eq!((cookie.same_site.as_str(), cookie.expires_at), ("none", Some(at(NOW + 60))));
    assert_eq!(only("a=b; Path=/1; Path=default").path, "");
    let expires = "a=b; Expires=1 Jan 2030 00:00:00; Expires=1 Jan 1970 00:00:07; Expires=never";
    assert_eq!(only(expires).expires_at, Some(at(7)));
}

#[test]
fn max_age_precedes_expires_and_saturates_at_both_ends() {
    let latest = SystemTime::UNIX_EPOCH + MAX_TIMESTAMP;
    for (age, expected) in [
        ("60", at(NOW + 60)),
        ("0", at(0)),
        ("00", at(0)),
        ("-5", at(0)),
        ("-99999999999999999999999999", at(0)),
        ("99999999999999999999999999", latest),
        ("18446744073709551615", latest),
        ("9223372036854775807", latest),
    ] {
        for text in [
            format!("a=b; Max-Age={age}; Expires=Sun, 06 Nov 1994 08:49:37 GMT"),
            format!("a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Max-Age={age}"),
        ] {
            let cookie = only(&text);
            assert_eq!(
                (cookie.expires_at, cookie.is_deletion),
                (Some(expected), expected == at(0)),
                "{text}"
            );
        }
    }
}

#[test]
fn expires_is_clamped_to_the_range_of_a_timestamp() {
    assert_eq!(only("a=b; Expires=1 Jan 1601 00:00:00").expires_at, Some(at(0)));
    let last = only("a=b; Expires=31 Dec 9999 23:59:59 -1200").expires_at;
    assert_eq!(last, Some(SystemTime::UNIX_EPOCH + MAX_TIMESTAMP));
}

#[test]
fn deletion_is_recognized_in_every_spelling_of_its_date() {
    for date in [
        "Thu, 1 Jan 1970 00:00:01 GMT",
        "Thu, 01-Jan-1970 00:00:00 UTC",
        "Thu, 01 Jan 1970 00:00:00 +0000",
        "Thu, 01-Jan-70 00:00:00 GMT",
        "Thursday, 01-Jan-70 00:00:00 GMT",
        "Thu Jan  1 00:00:00 1970",
        "Thu, 01 Jan 1970 00:00:00",
        "\"Thu, 01 Jan 1970 00:00:00 GMT\"",
        "Mon, 01-Jan-1601 00:00:00 GMT",
    ] {
        assert_eq!(header(&["sid=1".to_owned(), format!("old=gone; Expires={date}")]), "sid=1", "{date}");
    }
}

#[test]
fn later_cookie_replaces_the_earlier_one() {
    assert_eq!(header(&["a=1", "b=2", "a=3", "a=4; Path=/x", "A=5"]), "b=2; a=3; a=4; A=5");
    assert_eq!(header(&["sid=1; Domain=Example.com", "sid=2; Domain=.example.com"]), "sid=2");
    assert_eq!(header(&["sid=1", "sid=; Max-Age=0"]), "", "set, and deleted again");
}

#[test]
fn cookie_expired_on_arrival_is_listed_and_not_sent() {
    let expired = [
        "old=gone; Max-Age=0",
        "older=gone; Expires=Sun, 06 Nov 1994 08:49:37 GMT",
        "sid=1; Path=/",
        "sid=; Path=/old; Max-Age=0",
        "short=2; Max-Age=1",
    ];
    assert_eq!(set(&expired).session.cookies().len(), 5);
    assert_eq!(header(&expired), "sid=1; short=2");
}

#[test]
fn wrong_clock_does_not_turn_a_live_cookie_into_a_deletion() {
    let lives_for = |ahead: u64, date: Option<u64>| {
        let expires = httpdate::fmt_http_date(at(NOW + 600));
        let mut headers = headers(&[format!("sid=1; Expires={expires}")]);
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::try_from(httpdate::fmt_http_date(at(date))).unwrap());
        }
        !read(&headers, at(NOW + ahead)).session.is_empty()
    };
    assert!(lives_for(0, None) && lives_for(599, None) && !lives_for(600, None));
    assert!(lives_for(3600, Some(NOW)), "our clock is ahead");
    assert!(lives_for(0, Some(NOW + 3600)), "the platform's clock is ahead");
    assert!(!lives_for(600, Some(NOW + 600)), "it has expired by both");
}

#[test]
fn folded_header_is_split_after_an_attribute() {
    for (text, expected) in [
        ("a=1; Path=/; secure, b=2; Path=/; HttpOnly", "a=1; b=2"),
        ("a=1; Path=/,b=2; Path=/,c=3", "a=1; b=2; c=3"),
        ("a=1; Path=/ ,\t b = 2", "a=1; b=2"),
        ("a=1; Expires=Fri, 01-Jan-2100 00:00:00 GMT, b=2; Path=/", "a=1; b=2"),
        ("a=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT,b=2; Expires=Fri, 01 Jan 2100 00:00:00 GMT", "a=1; b=2"),
        (
            "a=1; Expires=Fri Jan 1 00:00:00 2100, session[id]=x,y; Max-Age=5, sid:v2=3",
            "a=1; session[id]=x,y; sid:v2=3",
        ),
        ("a=1; HttpOnly, b=\"2, c=3\"; Path=/", "a=1; b=\"2, c=3\""),
        ("a=1; Comment=\"x, y=z\"; Path=/, b=2", "a=1; b=2"),
    ] {
        assert_eq!(header(&[text]), expected, "{text}");
        assert!(!unfold(text.as_bytes()).looks_folded, "{text}");
    }
    let set = set(&["a=1; Path=/; secure, b=2; Path=/x; HttpOnly"]);
    let [a, b] = set.session.cookies() else { panic!("two cookies") };
    assert_eq!((a.path.as_str(), a.secure, a.http_only), ("/", true, false));
    assert_eq!((b.path.as_str(), b.secure, b.http_only), ("/x", false, true));
}

#[test]
fn ambiguous_comma_does_not_split_and_is_reported() {
    for (text, expected) in [
        ("a=1, b=2; Path=/", "a=1, b=2"),
        ("e=a b,c=d", "e=a b,c=d"),
        ("e=ab,cd==; Path=/", "e=ab,cd=="),
        ("flag, b=2", "flag, b=2"),
        ("a=1; Comment=x, y=z; Path=/", "a=1"),
        ("a=1; Path=/, Domain=example.com", "a=1"),
        ("a=1; HttpOnly, b c=2", "a=1"),
        ("a=1; HttpOnly, b=2, c=3", "a=1; b=2, c=3"),
    ] {
        assert_eq!(header(&[text]), expected, "{text}");
        assert!(unfold(text.as_bytes()).looks_folded, "{text}");
    }
}

#[test]
fn comma_that_cannot_separate_cookies_is_kept() {
    for text in [
        "a=b,c; Path=/x,y; Expires=Fri, 01-Jan-2100 00:00:00 GMT; HttpOnly",
        "a=\"b, c=d\"; Path=/",
        "a=1; Path=/,",
        "a=1; Priority=High, Medium; SameSite=Lax",
        "a=1; Expires=\"Fri, 01-Jan-2100 00:00:00 GMT\"",
        "",
    ] {
        let unfolded = unfold(text.as_bytes());
        assert_eq!((unfolded.cookies, unfolded.looks_folded), (vec![text.as_bytes()], false));
    }
}

#[test]
fn session_has_at_most_thirty_two_cookies() {
    let values: Vec<String> = (0..33).map(|n| format!("c{n}=v; Path=/")).collect();
    let fits = set(&values[..32]);
    assert_eq!((fits.session.cookies().len(), fits.problem), (32, None));
    for excess in [set(&values), set(&[values.join(", ")])] {
        assert_eq!((excess.session.cookies().len(), excess.problem), (32, Some(CookieProblem::TooMany)));
    }
    let again: Vec<&String> = values[..32].iter().chain(&values[..32]).collect();
    assert_eq!(set(&again).problem, None, "replaced cookies do not count");
}

#[test]
fn session_has_at_most_sixteen_kib_of_cookies() {
    let exact = [b"a=".to_vec(), vec![b'x'; MAX_BYTES - 2]].concat();
    assert_eq!(set(&[&exact]).problem, None);
    let more = [exact.clone(), vec![b'x']].concat();
    assert_eq!(set(&[&more]).problem, Some(CookieProblem::TooLong));
    let (sent, problem) = failed(&[exact, b"b=".to_vec()]);
    assert_eq!((sent.len(), problem), (MAX_BYTES, CookieProblem::TooLong));
}

/// Returns the log lines of parsing these headers.
fn logged(values: &[&str]) -> Vec<String> {
    let log = CapturedLog::start();
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    call.set_api_client("eu2".into());
    set(values).irregularities.warn(&call);
    log.text().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn irregular_cookies_are_logged_once_per_response_without_names_or_values() {
    let lines = logged(&[
        "CANARY",
        "=CANARY",
        "CANARY1=CANARY; Expires=CANARY; Max-Age=CANARY",
        "CANARY2=CANARY; Path=/CANARY, CANARY3=CANARY",
        "CANARY4=CANARY, CANARY=CANARY",
        "CANARY5=CANARY, CANARY=CANARY; Domain=CANARY, CANARY6=CANARY",
    ]);
    let [ignored, attributes, folded] = &lines[..] else { panic!("three lines: {lines:?}") };
    assert!(
        ignored.contains("ignored invalid cookies") && ignored.contains("cookies.ignored=2"),
        "{ignored}"
    );
    assert!(attributes.contains("attributes.ignored=2"), "{attributes}");
    assert!(folded.contains("set-cookie header looks folded"), "{folded}");
    assert!(folded.contains("headers.split=2") && folded.contains("headers.ambiguous=2"), "{folded}");
    for line in lines {
        assert!(line.contains("WARN") && !line.contains("CANARY"), "{line}");
        assert!(line.contains("request.id=") && line.contains(r#"api_client.name="eu2""#), "{line}");
    }
    assert!(logged(&["sid=CANARY; Path=/; Comment=CANARY"]).is_empty());
}

/// Generates texts from pieces of cookies, so that all branches are reached.
fn almost_cookies() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-c]{1,2}=[a-c]{0,2}",
        "[ -~]{0,4}",
        "(; |;|, |,|=|\"|\t)",
        "(Path=/|Secure|Max-Age=-?[0-9]{1,25}|Expires=Thu, 01-Jan-1970 00:00:00|Domain=.x|SameSite=A|Comment=)",
        "\\PC",
    ];
    let bytes = prop_oneof![
        9 => piece.prop_map(String::into_bytes),
        1 => prop::collection::vec(0x80_u8.., 1..3),
    ];
    prop::collection::vec(bytes, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for text in unfold(&bytes).cookies {
            if let Some(cookie) = ReceivedCookie::parse(text) {
                let _ = (cookie.as_text(), cookie.expires_at(at(NOW)), cookie.has_expired(at(NOW)));
            }
        }
    }

    #[test]
    fn splitting_only_removes_commas(bytes in almost_cookies()) {
        prop_assert_eq!(unfold(&bytes).cookies.join(&b','), bytes);
    }

    #[test]
    fn returned_cookies_cannot_end_a_cookie_or_a_header(
        values in prop::collection::vec(almost_cookies(), 0..6),
    ) {
        let values: Vec<_> = values.into_iter().filter(|value| HeaderValue::from_bytes(value).is_ok()).collect();
        let SetCookies { session, problem, .. } = set(&values);
        let mut live = Vec::new();
        for cookie in session.cookies() {
            let (name, value) = (cookie.name.as_str(), cookie.value.expose());
            let is_control = |character: char| character.is_control() && character != '\t';
            prop_assert!(!name.is_empty() && !name.contains([';', '=']) && !name.contains(is_control));
            prop_assert!(!value.contains(';') && !value.contains(is_control));
            prop_assert_eq!((name.trim_matches([' ', '\t']), value.trim_matches([' ', '\t'])), (name, value));
            for attribute in [&cookie.domain, &cookie.path, &cookie.same_site] {
                prop_assert!(!attribute.contains(char::is_control) && !attribute.contains(';'));
            }
            if !cookie.is_deletion {
                live.push(format!("{name}={value}"));
            }
        }
        let text = session.cookie_header();
        prop_assert_eq!(text.expose(), live.join("; "));
        prop_assert!(!text.expose().contains(['\r', '\n', '\0']));
        let bytes = session.logout_header().map(|header| header.as_bytes().to_vec()).unwrap_or_default();
        prop_assert!(!bytes.iter().any(|byte| b"\r\n\0".contains(byte)));
        prop_assert!(bytes.starts_with(text.expose().as_bytes()));
        // Without a problem, every live cookie is returned to the caller.
        prop_assert!(problem.is_some() || bytes == text.expose().as_bytes());
    }

    /// Any text that RFC 6265 allows in a cookie is kept unchanged.
    #[test]
    fn any_name_and_value_are_kept(name in "[^\\pC;=,]{1,8}", value in "[^\\pC;,]{0,12}") {
        let (name, value) = (name.trim(), value.trim());
        prop_assume!(!name.is_empty());
        let cookie = only(&format!("{name}={value}; Path=/"));
        prop_assert_eq!((cookie.name.as_str(), cookie.value.expose()), (name, value));
    }
}
