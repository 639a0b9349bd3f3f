//! The session that a login's `Set-Cookie` headers make up (RFC 6265, 5.2 and 5.3).
//!
//! Cookies are read and kept, never sent: that is for the one who logs the session out.

use std::time::{Duration, SystemTime};

use cookie::Cookie;
use http::{HeaderMap, header::SET_COOKIE};

use crate::{
    secret::Secret,
    session::{Session, SessionCookie},
};

/// The most cookies of one session.
const MAX_COOKIES: usize = 32;
/// The most bytes of all its `Set-Cookie` headers.
const MAX_BYTES: usize = 16 * 1024;
/// 9999-12-31T23:59:59Z, in seconds since 1970: the last moment that the contract's
/// timestamps can say.
const LATEST_SECONDS: u64 = 253_402_300_799;

/// What the headers of an answer set.
pub(super) struct SetCookies {
    /// The session, as far as the limits go.
    pub(super) session: Session,
    /// There is more than a session can have.
    pub(super) excess: bool,
}

/// Reads all `Set-Cookie` headers, in order. One that is no cookie is left out with a
/// warning; one that sets an earlier one anew takes its place.
pub(super) fn read(headers: &HeaderMap, now: SystemTime) -> SetCookies {
    let mut cookies: Vec<SessionCookie> = Vec::new();
    let mut bytes = 0;
    let mut invalid = 0_u32;
    let mut excess = false;
    for header in headers.get_all(SET_COOKIE) {
        bytes += header.len();
        if bytes > MAX_BYTES {
            excess = true;
            break;
        }
        let Some(cookie) = std::str::from_utf8(header.as_bytes()).ok().and_then(|text| read_one(text, now))
        else {
            invalid += 1;
            continue;
        };
        cookies.retain(|earlier| {
            (&earlier.name, &earlier.path) != (&cookie.name, &cookie.path)
                || !earlier.domain.eq_ignore_ascii_case(&cookie.domain)
        });
        if cookies.len() == MAX_COOKIES {
            excess = true;
            break;
        }
        cookies.push(cookie);
    }
    if invalid > 0 {
        tracing::warn!(cookies.invalid = invalid, "a login's answer has cookies that cannot be read");
    }
    SetCookies { session: Session::new(cookies, now), excess }
}

fn read_one(text: &str, now: SystemTime) -> Option<SessionCookie> {
    // What could end a header or a line never gets any further.
    if text.chars().any(char::is_control) {
        return None;
    }
    let cookie = Cookie::parse(text).ok()?;
    if !cookie.name().bytes().all(is_token_byte) {
        return None;
    }
    Some(SessionCookie {
        name: cookie.name().to_owned(),
        value: Secret::new(cookie.value().to_owned()),
        domain: cookie.domain().unwrap_or_default().to_owned(),
        path: cookie.path().unwrap_or_default().to_owned(),
        expires_at: expires_at(&cookie, now),
        secure: cookie.secure().unwrap_or_default(),
        http_only: cookie.http_only().unwrap_or_default(),
        same_site: same_site(text),
    })
}

/// The `SameSite` attribute in lower case, one that we do not know included.
fn same_site(text: &str) -> String {
    text.split(';')
        .skip(1)
        .filter_map(|attribute| attribute.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("samesite"))
        .last()
        .map(|(_, value)| value.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// `Max-Age` wins over `Expires`; no age at all is the beginning of time, and too much
/// of it the end.
fn expires_at(cookie: &Cookie<'_>, now: SystemTime) -> Option<SystemTime> {
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(LATEST_SECONDS);
    if let Some(age) = cookie.max_age() {
        let age = Duration::try_from(age).unwrap_or(Duration::ZERO);
        return Some(if age.is_zero() {
            SystemTime::UNIX_EPOCH
        } else {
            now.checked_add(age).unwrap_or(latest).min(latest)
        });
    }
    let expires = SystemTime::from(cookie.expires_datetime()?);
    Some(expires.clamp(SystemTime::UNIX_EPOCH, latest))
}

/// What a cookie's name may be made of (RFC 9110, 5.6.2).
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn set(values: &[&[u8]]) -> SetCookies {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SET_COOKIE, HeaderValue::from_bytes(value).expect("a header value"));
        }
        read(&headers, at(NOW))
    }

    fn header(values: &[&[u8]]) -> String {
        set(values).session.cookie_header().expose().to_owned()
    }

    #[test]
    fn attributes_are_kept() {
        let set = set(&[b"sid=abc; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax; Expires=Sun, 06 Nov 1994 08:49:37 GMT"]);
        let [cookie] = set.session.cookies() else { panic!("one cookie") };
        assert_eq!((cookie.name.as_str(), cookie.value.expose()), ("sid", "abc"));
        assert_eq!((cookie.domain.as_str(), cookie.path.as_str()), ("example.com", "/"));
        assert!(cookie.http_only && cookie.secure);
        assert_eq!(cookie.same_site, "lax");
        assert_eq!(cookie.expires_at, Some(at(784_111_777)));
    }

    #[test]
    fn a_bare_cookie_has_no_attributes() {
        let set = set(&[b"sid=abc"]);
        let [cookie] = set.session.cookies() else { panic!("one cookie") };
        assert_eq!((cookie.domain.as_str(), cookie.path.as_str(), cookie.same_site.as_str()), ("", "", ""));
        assert!(!cookie.http_only && !cookie.secure);
        assert_eq!(cookie.expires_at, None);
    }

    #[test]
    fn same_site_is_lower_cased_as_sent() {
        for (sent, expected) in [("Strict", "strict"), ("NONE", "none"), ("Odd", "odd")] {
            let text = format!("a=b; sAmESiTe={sent}");
            assert_eq!(set(&[text.as_bytes()]).session.cookies()[0].same_site, expected);
        }
    }

    #[test]
    fn max_age_wins_and_saturates_at_both_ends() {
        for (age, expected) in [
            ("60", at(NOW + 60)),
            ("0", at(0)),
            ("-5", at(0)),
            ("99999999999999999999999999", at(LATEST_SECONDS)),
            ("9223372036854775807", at(LATEST_SECONDS)),
        ] {
            for text in [
                format!("a=b; Max-Age={age}; Expires=Sun, 06 Nov 1994 08:49:37 GMT"),
                format!("a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Max-Age={age}"),
            ] {
                assert_eq!(set(&[text.as_bytes()]).session.cookies()[0].expires_at, Some(expected), "{text}");
            }
        }
    }

    #[test]
    fn a_date_that_cannot_be_read_is_no_date() {
        for text in ["a=b; Expires=soon", "a=b; Max-Age=soon"] {
            assert_eq!(set(&[text.as_bytes()]).session.cookies()[0].expires_at, None, "{text}");
        }
    }

    #[test]
    fn values_come_out_exactly_as_sent() {
        assert_eq!(
            header(&[
                b"a=\"quoted\"; Path=/",
                b"b=x=y==",
                b"c=%20%3B",
                b"d=",
                b"e=a b,c",
                "f=\u{e9}".as_bytes()
            ]),
            "a=\"quoted\"; b=x=y==; c=%20%3B; d=; e=a b,c; f=\u{e9}"
        );
    }

    #[test]
    fn what_is_no_cookie_is_left_out_and_the_rest_stays() {
        assert_eq!(
            header(&[
                b"good=1",
                b"novalue",
                b"=nameless",
                b"bad name=1",
                b"a=\tb\tc",
                b"\xff\xfe=1",
                b"k\"=1",
                b"",
                b"also=2"
            ]),
            "good=1; also=2"
        );
    }

    #[test]
    fn a_cookie_set_anew_takes_the_place_of_the_earlier_one() {
        assert_eq!(header(&[b"a=1", b"b=2", b"a=3", b"a=4; Path=/x"]), "b=2; a=3; a=4");
    }

    #[test]
    fn a_cookie_that_came_expired_is_listed_and_not_sent() {
        let expired: &[&[u8]] = &[
            b"old=gone; Max-Age=0",
            b"older=gone; Expires=Sun, 06 Nov 1994 08:49:37 GMT",
            b"sid=1; Path=/",
            b"sid=; Path=/old; Max-Age=0",
            b"short=2; Max-Age=1",
        ];
        assert_eq!(set(expired).session.cookies().len(), 5);
        assert_eq!(header(expired), "sid=1; short=2");
        assert_eq!(header(&[b"sid=1", b"sid=; Max-Age=0"]), "", "set, and deleted again");
        assert_eq!(header(&[b"sid=1; Domain=Example.com", b"sid=2; Domain=.example.com"]), "sid=2");
    }

    #[test]
    fn thirty_two_cookies_are_a_session_and_one_more_is_not() {
        let values: Vec<String> = (0..33).map(|n| format!("c{n}=v")).collect();
        let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let fits = set(&values[..32]);
        assert_eq!((fits.session.cookies().len(), fits.excess), (32, false));
        let excess = set(&values);
        assert_eq!((excess.session.cookies().len(), excess.excess), (32, true));
    }

    #[test]
    fn sixteen_kib_are_a_session_and_one_byte_more_is_not() {
        let exact = [b"a=".to_vec(), vec![b'x'; MAX_BYTES - 2]].concat();
        assert!(!set(&[&exact]).excess);
        let more = [exact, vec![b'x']].concat();
        assert!(set(&[&more]).excess);
    }
}
