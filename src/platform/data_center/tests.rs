use percent_encoding::percent_decode_str;
use proptest::{prelude::*, sample::select};

use super::*;

fn data_center() -> DataCenter {
    DataCenter::parse("https://eu2-cloud.acronis.com").unwrap()
}

fn allowed() -> Vec<Origin> {
    ["https://portal.example.com", "https://xn--bcher-kva.example:8443"]
        .map(|text| Origin::parse(text).unwrap())
        .into()
}

fn token(text: &str) -> OneTimeToken {
    OneTimeToken::try_new(text.to_owned()).unwrap()
}

/// Returns how a browser interprets an absolute reference: a model of the steps of the WHATWG URL
/// standard that determine the host, independent of the `url` crate.
fn as_a_browser_sees(text: &str) -> Option<(String, String, bool)> {
    let text: String = text
        .trim_matches(|c: char| c <= ' ')
        .chars()
        .filter(|c| !matches!(c, '\t' | '\n' | '\r'))
        .map(|c| if c == '\\' { '/' } else { c })
        .collect();
    let (scheme, rest) = text.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let rest = rest.trim_start_matches('/');
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = percent_decode_str(host).decode_utf8().ok()?.to_ascii_lowercase();
    let host = host.strip_suffix(default_port).or_else(|| host.strip_suffix(':')).unwrap_or(&host).to_owned();
    Some((scheme, host, !user_info.is_empty()))
}

/// Returns the values of a login URL, parsed like the platform's page parses the fragment.
fn fragment_of(url: &LoginUrl) -> (String, String) {
    let (page, fragment) = url.expose().split_once('#').unwrap();
    assert_eq!(page, "https://eu2-cloud.acronis.com/api/2/idp/external-login");
    let values: Vec<(&str, String)> = fragment
        .split('&')
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key, percent_decode_str(value).decode_utf8().unwrap().into_owned())
        })
        .collect();
    let [("ott", ott), ("targetURI", target)] = values.as_slice() else { panic!("{fragment}") };
    (ott.clone(), target.clone())
}

#[test]
fn data_center_is_https_or_on_loopback_and_normalized() {
    for (text, base) in [
        ("https://eu2-cloud.acronis.com", "https://eu2-cloud.acronis.com/"),
        ("HTTPS://EU2-Cloud.Acronis.COM:443/", "https://eu2-cloud.acronis.com/"),
        ("https://dc.example:8443", "https://dc.example:8443/"),
        ("https://eu2-cloud.acronis.com.", "https://eu2-cloud.acronis.com/"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("http://localhost:8080/", "http://localhost:8080/"),
        ("http://[::1]:8080", "http://[::1]:8080/"),
    ] {
        assert_eq!(DataCenter::parse(text).unwrap().base_url().as_str(), base);
    }
    let data_center = data_center();
    assert_eq!(data_center.token_url().as_str(), "https://eu2-cloud.acronis.com/api/2/idp/token");
    assert_eq!(data_center.ott_url().as_str(), "https://eu2-cloud.acronis.com/api/2/idp/ott");
    assert_eq!(data_center.ott_login_url().as_str(), "https://eu2-cloud.acronis.com/api/2/idp/ott/login");
    assert_eq!(data_center.logout_url().as_str(), "https://eu2-cloud.acronis.com/api/2/idp/logout");
}

#[test]
fn data_center_must_be_an_https_url_without_a_path() {
    use InvalidServerUrl as Invalid;
    for (text, why) in [
        ("", Invalid::NotAbsolute),
        ("eu2-cloud.acronis.com", Invalid::NotAbsolute),
        ("https:eu2-cloud.acronis.com", Invalid::NotAbsolute),
        ("https:///eu2-cloud.acronis.com", Invalid::NotAbsolute),
        ("https://", Invalid::NotAbsolute),
        ("https://?x", Invalid::NotAbsolute),
        ("https://dc.example:99999", Invalid::NotAbsolute),
        ("http://dc.example", Invalid::NotHttps),
        ("http://localhost.evil.example", Invalid::NotHttps),
        ("http://169.254.169.254", Invalid::NotHttps),
        ("http://0.0.0.0", Invalid::NotHttps),
        ("ftp://127.0.0.1", Invalid::NotHttps),
        ("file://localhost", Invalid::NotHttps),
        ("https://user@dc.example", Invalid::UserInfo),
        ("https://user:secret@dc.example", Invalid::UserInfo),
        ("https://@dc.example", Invalid::UserInfo),
        ("http://127.1", Invalid::AmbiguousHost),
        ("http://2130706433:8080", Invalid::AmbiguousHost),
        ("http://127.0.0.1.", Invalid::AmbiguousHost),
        ("http://[0:0::1]", Invalid::AmbiguousHost),
        ("https://dc.example/api", Invalid::Path),
        ("https://dc.example//", Invalid::Path),
        ("https://dc.example/.", Invalid::Path),
        ("https://dc.example?x=1", Invalid::QueryOrFragment),
        ("https://dc.example/?", Invalid::QueryOrFragment),
        ("https://dc.example/#", Invalid::QueryOrFragment),
        (" https://dc.example", Invalid::ForbiddenCharacter),
        ("https://dc.example\n", Invalid::ForbiddenCharacter),
        ("https://dc\t.example", Invalid::ForbiddenCharacter),
        ("https:\\\\dc.example", Invalid::ForbiddenCharacter),
        ("https://dc%2eexample", Invalid::ForbiddenCharacter),
        ("https://b\u{fc}cher.example", Invalid::ForbiddenCharacter),
        ("https://*.example", Invalid::Wildcard),
    ] {
        assert_eq!(DataCenter::parse(text), Err(why), "{text:?}");
    }
    assert_eq!(Origin::parse("http://127.0.0.1:8080"), Err(Invalid::NotHttpsOrigin));
    assert_eq!(Origin::parse("https://portal.example.com/app"), Err(Invalid::Path));
}

#[test]
fn login_may_target_the_data_center_or_an_allowed_origin() {
    for (target, target_uri) in [
        ("/", "https://eu2-cloud.acronis.com/"),
        ("/mc/", "https://eu2-cloud.acronis.com/mc/"),
        ("/mc/?tab=a%2Fb#/users//1", "https://eu2-cloud.acronis.com/mc/?tab=a%2Fb#/users//1"),
        ("/mc//x", "https://eu2-cloud.acronis.com/mc//x"),
        ("https://eu2-cloud.acronis.com/mc/", "https://eu2-cloud.acronis.com/mc/"),
        ("HTTPS://EU2-cloud.Acronis.com:443/mc/", "https://eu2-cloud.acronis.com/mc/"),
        ("https://portal.example.com", "https://portal.example.com/"),
        ("https://portal.example.com/a?next=//b@c", "https://portal.example.com/a?next=//b@c"),
        ("https://xn--bcher-kva.example:8443/", "https://xn--bcher-kva.example:8443/"),
    ] {
        assert_eq!(data_center().target_uri(target, &allowed()).unwrap().as_str(), target_uri, "{target}");
    }
}

#[test]
fn other_login_targets_are_rejected() {
    use InvalidTargetUri as Invalid;
    let long = format!("/{}", "a".repeat(MAX_TARGET_URI_BYTES));
    for (target, why) in [
        ("", Invalid::Empty),
        (long.as_str(), Invalid::TooLong),
        ("//evil.example", Invalid::DoubleSlash),
        ("///evil.example", Invalid::DoubleSlash),
        ("/\\evil.example", Invalid::ForbiddenCharacter),
        ("\\\\evil.example", Invalid::ForbiddenCharacter),
        ("/\t/evil.example", Invalid::ForbiddenCharacter),
        ("/\n/evil.example", Invalid::ForbiddenCharacter),
        (" /mc/", Invalid::ForbiddenCharacter),
        ("/\u{3000}/evil.example", Invalid::ForbiddenCharacter),
        ("/.//evil.example", Invalid::DoubleSlash),
        ("/a/..//evil.example", Invalid::DoubleSlash),
        ("/%2e%2e//evil.example", Invalid::DoubleSlash),
        ("/%2fevil.example", Invalid::DoubleSlash),
        ("/%5Cevil.example", Invalid::DoubleSlash),
        ("/%09/evil.example", Invalid::DoubleSlash),
        ("/%20%0a%2Fevil.example", Invalid::DoubleSlash),
        ("https://eu2-cloud.acronis.com//evil.example", Invalid::DoubleSlash),
        ("mc/", Invalid::NeitherPathNorHttps),
        ("javascript:alert(1)", Invalid::NeitherPathNorHttps),
        ("JaVaScRiPt://eu2-cloud.acronis.com/%0aalert(1)", Invalid::NeitherPathNorHttps),
        ("data:text/html,x", Invalid::NeitherPathNorHttps),
        ("blob:https://eu2-cloud.acronis.com/x", Invalid::NeitherPathNorHttps),
        ("http://eu2-cloud.acronis.com/mc/", Invalid::NeitherPathNorHttps),
        ("https:/evil.example", Invalid::NeitherPathNorHttps),
        ("https:evil.example", Invalid::NeitherPathNorHttps),
        ("https:///evil.example", Invalid::NeitherPathNorHttps),
        ("https://", Invalid::NeitherPathNorHttps),
        ("https://eu2-cloud.acronis.com@evil.example/", Invalid::UserInfo),
        ("https://x:y@eu2-cloud.acronis.com/", Invalid::UserInfo),
        ("https://@eu2-cloud.acronis.com/", Invalid::UserInfo),
        ("https://eu2-cloud%2eacronis.com/", Invalid::UserInfo),
        ("https://evil.example/", Invalid::ForeignOrigin),
        ("https://eu2-cloud.acronis.com.evil.example/", Invalid::ForeignOrigin),
        ("https://eu2-cloud.acronis.com./", Invalid::ForeignOrigin),
        ("https://eu2-cloud.acronis.com:444/", Invalid::ForeignOrigin),
        ("https://portal.example.com:8443/", Invalid::ForeignOrigin),
        ("https://a.portal.example.com/", Invalid::ForeignOrigin),
        ("https://b\u{fc}cher.example:8443/", Invalid::ForbiddenCharacter),
        ("https://evil.example#@eu2-cloud.acronis.com/", Invalid::ForeignOrigin),
        ("https://evil.example?@eu2-cloud.acronis.com/", Invalid::ForeignOrigin),
    ] {
        assert_eq!(data_center().target_uri(target, &allowed()), Err(why), "{target:?}");
    }
}

#[test]
fn sandbox_target_may_use_only_its_own_http_origin() {
    let sandbox = DataCenter::parse("http://127.0.0.1:8080").unwrap();
    assert_eq!(sandbox.target_uri("/mc/", &[]).unwrap().as_str(), "http://127.0.0.1:8080/mc/");
    assert_eq!(
        sandbox.target_uri("http://127.0.0.1:8080/mc/", &[]).unwrap().as_str(),
        "http://127.0.0.1:8080/mc/"
    );
    for target in ["http://127.0.0.1:8081/", "http://evil.example/", "https://127.0.0.1:8080/"] {
        assert_eq!(sandbox.target_uri(target, &[]), Err(InvalidTargetUri::ForeignOrigin), "{target}");
    }
}

#[test]
fn data_center_that_browsers_see_elsewhere_still_gets_its_requests() {
    let inside = DataCenter::parse("http://127.0.0.1:8080").unwrap();
    let public = Url::parse("http://box.test:9000").unwrap();
    let seen = inside.clone().seen_at(&public);
    assert_eq!((seen.base_url(), seen.ott_url()), (inside.base_url(), inside.ott_url()));
    let target_uri = seen.target_uri("/mc/", &[]).unwrap();
    assert_eq!(target_uri.as_str(), "http://box.test:9000/mc/");
    let url = seen.browser_login_url(&token("t"), &target_uri);
    assert!(url.expose().starts_with("http://box.test:9000/api/2/idp/external-login#"), "{}", url.expose());
}

#[test]
fn login_url_has_token_and_target_in_its_fragment() {
    let target_uri = data_center().target_uri("/mc/", &[]).unwrap();
    let url = data_center().browser_login_url(&token("T1RU-AQ==+/&#%"), &target_uri);
    assert_eq!(
        url.expose(),
        "https://eu2-cloud.acronis.com/api/2/idp/external-login#ott=T1RU-AQ%3D%3D%2B%2F%26%23%25\
         &targetURI=https%3A%2F%2Feu2-cloud.acronis.com%2Fmc%2F"
    );
    assert_eq!(fragment_of(&url).0, "T1RU-AQ==+/&#%");
}

/// Generates texts from pieces that are known to fool URL checks.
fn nasty() -> impl Strategy<Value = String> {
    let pieces = select(vec![
        "/",
        "//",
        "\\",
        "\\\\",
        ":",
        "@",
        "?",
        "#",
        "%2f",
        "%2F",
        "%5c",
        "%00",
        "%09",
        "%40",
        "\t",
        "\n",
        "\r",
        "\0",
        " ",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{200b}",
        "\u{feff}",
        "\u{ff0f}",
        "\u{3002}",
        ".",
        "..",
        "https:",
        "HtTpS:",
        "https://",
        "http://",
        "javascript:",
        "data:",
        "blob:",
        "mc",
        "eu2-cloud.acronis.com",
        "EU2-Cloud.ACRONIS.com",
        "portal.example.com",
        "evil.example",
        "b\u{fc}cher.example",
        "xn--bcher-kva.example:8443",
        ":443",
        ":8443",
        "127.0.0.1",
        "[::1]",
        "*",
        "&",
        "=",
        ";",
        "'",
        "\"",
        "<",
        "%",
    ]);
    prop_oneof![
        3 => prop::collection::vec(pieces.clone(), 0..8).prop_map(|pieces| pieces.concat()),
        2 => prop::collection::vec(pieces.clone(), 0..5).prop_map(|pieces| format!("/{}", pieces.concat())),
        2 => prop::collection::vec(pieces, 0..5)
            .prop_map(|pieces| format!("https://eu2-cloud.acronis.com{}", pieces.concat())),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn every_parser_sees_an_accepted_target_on_an_allowed_host(target in nasty()) {
        let data_center = data_center();
        let Ok(target_uri) = data_center.target_uri(&target, &allowed()) else { return Ok(()) };

        let (ott, seen) = fragment_of(&data_center.browser_login_url(&token("a=b&c#d%"), &target_uri));
        prop_assert_eq!(ott, "a=b&c#d%");
        prop_assert_eq!(&seen, target_uri.as_str());

        let parsed = Url::parse(&seen).unwrap();
        prop_assert_eq!(parsed.as_str(), &seen, "parsing is idempotent");
        prop_assert_eq!(parsed.scheme(), "https");
        prop_assert!(parsed.username().is_empty() && parsed.password().is_none());
        let hosts = ["eu2-cloud.acronis.com", "portal.example.com", "xn--bcher-kva.example"];
        prop_assert!(hosts.contains(&parsed.host_str().unwrap()), "{}", seen);

        let (scheme, host, user_info) = as_a_browser_sees(&seen).unwrap();
        prop_assert_eq!(scheme, "https");
        prop_assert_eq!(host, parsed.host_str().unwrap().to_owned()
            + &parsed.port().map_or(String::new(), |port| format!(":{port}")));
        prop_assert!(!user_info);

        // The page that follows the target may resolve it relative to its own URL, and the caller's
        // text may be resolved elsewhere before.
        let page = Url::parse("https://eu2-cloud.acronis.com/api/2/idp/external-login").unwrap();
        prop_assert_eq!(String::from(page.join(&seen).unwrap()), seen.as_str());
        prop_assert_eq!(page.join(&target).unwrap().origin(), parsed.origin());
        let decoded = percent_decode_str(parsed.path()).decode_utf8_lossy().into_owned();
        prop_assert_eq!(
            data_center.base_url().join(&decoded).unwrap().origin(),
            data_center.base_url().origin(),
            "the path alone, decoded once, stays on the data center"
        );
    }

    #[test]
    fn any_token_survives_the_login_url(text in "[!-~]{1,64}") {
        let target_uri = data_center().target_uri("/mc/", &[]).unwrap();
        let url = data_center().browser_login_url(&token(&text), &target_uri);
        prop_assert_eq!(fragment_of(&url).0, text);
        prop_assert_eq!(String::from(Url::parse(url.expose()).unwrap()), url.expose());
    }

    #[test]
    fn host_of_a_data_center_is_that_in_the_text(text in nasty()) {
        let Ok(data_center) = DataCenter::parse(&text) else { return Ok(()) };
        let (scheme, host, user_info) = as_a_browser_sees(&text).unwrap();
        prop_assert!(!user_info);
        prop_assert_eq!(
            format!("{scheme}://{}/", host.strip_suffix('.').unwrap_or(&host).replace(".:", ":")),
            data_center.base_url().as_str(),
            "the parser rewrote only a trailing dot"
        );
    }
}
