//! W3C Trace Context: parses it from the headers of callers, and propagates it.
//!
//! `traceparent` has a fixed size and may be parsed before the caller is identified. `tracestate`
//! is arbitrary text that every span of the trace keeps, so it is read only for identified callers,
//! and at most [`MAX_STATE_BYTES`] of it are kept.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Maximum size of a `tracestate` that is kept, in bytes: the size that W3C Trace Context requires
/// to be propagated (section 3.3.1.5).
const MAX_STATE_BYTES: usize = 512;
/// Maximum number of members of a `tracestate` (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// Members larger than this, in bytes, are removed first (section 3.3.1.5).
const LARGE_MEMBER: usize = 128;
/// Maximum size of a member's key, in bytes (section 3.3.1.3.1).
const MAX_KEY_BYTES: usize = 256;
/// Maximum size of a member's value, in bytes (section 3.3.1.3.2).
const MAX_VALUE_BYTES: usize = 256;
/// Size of a `traceparent` of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;
/// The flags that are known: sampled, and random trace id (level 2).
const KNOWN_FLAGS: u8 = 0b11;

/// Returns the caller's span without its `tracestate`. `None` if there is no `traceparent`, more
/// than one, or a malformed one (section 3.2).
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse_parent(value.as_bytes()),
        _ => None,
    }
}

/// Returns the same span with the caller's `tracestate`.
pub(super) fn with_state(parent: &SpanContext, headers: &HeaderMap) -> SpanContext {
    let state = state(headers).unwrap_or_default();
    SpanContext::new(parent.trace_id(), parent.span_id(), parent.trace_flags(), parent.is_remote(), state)
}

/// Writes a span into the headers of a request, as the parent of its spans.
pub(super) fn inject(context: &SpanContext, headers: &mut HeaderMap) {
    if !context.is_valid() {
        return;
    }
    let flags = context.trace_flags().to_u8() & KNOWN_FLAGS;
    let parent = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    if let Ok(parent) = HeaderValue::try_from(parent) {
        headers.insert(TRACEPARENT, parent);
    }
    let state = context.trace_state().header();
    if !state.is_empty()
        && let Ok(state) = HeaderValue::try_from(state)
    {
        headers.insert(TRACESTATE, state);
    }
}

fn parse_parent(text: &[u8]) -> Option<SpanContext> {
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let [version, trace_id, span_id, flags] =
        [(0, 2), (3, 35), (36, 52), (53, 55)].map(|(from, to)| known.get(from..to).unwrap_or_default());
    let dashes = [2, 35, 52].into_iter().all(|index| known.get(index) == Some(&b'-'));
    let [version] = hex::<1>(version)?;
    // A later version may append more, after another dash.
    let is_well_formed = dashes
        && match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.first() == Some(&b'-'),
        };
    let (trace_id, span_id) = (hex::<16>(trace_id)?, hex::<8>(span_id)?);
    let [flags] = hex::<1>(flags)?;
    let context = SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(flags & KNOWN_FLAGS),
        true,
        TraceState::default(),
    );
    (is_well_formed && context.is_valid()).then_some(context)
}

/// Decodes lower-case hexadecimal digits. Upper case is not allowed.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Parses all `tracestate` headers in order. `None` if any part is malformed, because then none of
/// it may be used (section 3.3).
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for value in headers.get_all(TRACESTATE) {
        for member in value.to_str().ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let is_duplicate = members.iter().any(|(other, _)| *other == key);
            if is_duplicate || members.len() == MAX_MEMBERS || !is_key(key) || !is_value(value) {
                return None;
            }
            members.push((key, value));
        }
    }
    shorten(&mut members);
    TraceState::from_key_value(members).ok()
}

/// Returns whether a text is a key (section 3.3.1.3.1, level 2, which includes the keys of
/// level 1).
fn is_key(key: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= MAX_KEY_BYTES
        && key.bytes().next().is_some_and(is_first)
        && key.bytes().all(|byte| is_first(byte) || b"_-*/@".contains(&byte))
}

fn is_value(value: &str) -> bool {
    (1..=MAX_VALUE_BYTES).contains(&value.len())
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

/// Removes whole members until the rest fits into [`MAX_STATE_BYTES`]: large ones first, then the
/// oldest ones, which are at the end.
fn shorten(members: &mut Vec<(&str, &str)>) {
    let size = |(key, value): &(&str, &str)| key.len() + 1 + value.len();
    let excess = |members: &[(&str, &str)]| {
        let bytes = members.iter().map(size).sum::<usize>() + members.len().saturating_sub(1);
        bytes > MAX_STATE_BYTES
    };
    while excess(members) {
        let large = members.iter().rposition(|member| size(member) > LARGE_MEMBER);
        members.remove(large.unwrap_or(members.len() - 1));
    }
}

#[cfg(test)]
mod tests;
