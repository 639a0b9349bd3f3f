//! Rules that limit the use of tokens: `issued_by` and `login_urls`.

use super::*;
use crate::access::Mismatch;

#[test]
fn issued_by_limits_only_logins_and_needs_a_sealed_token() {
    let by = |issuers: &[&str]| RuleSettings { issued_by: Some(texts(issuers)), ..rule(&["dns:a"]) };
    let user = login("john");
    let decide = |rules: &[RuleSettings], token_use| {
        let rules = Rules::try_new(rules.to_vec()).unwrap();
        let question =
            Question { caller: principal("dns:a"), token_use, api_client: "eu2", user: Some(&user) };
        let answer = rules.answer(question);
        answer.deciding().map(|rule| rule.number).ok_or_else(|| answer.closest().unwrap().1)
    };
    let sealed = |issuer| TokenUse::Login { issued_by: Some(issuer) };
    let raw = TokenUse::plain(Method::LoginWithOtt);
    let portal = [by(&["spiffe://td/ns/portal/*", "token:ci"])];
    for login_url in [false, true] {
        assert_eq!(decide(&portal, TokenUse::Issue { login_url }), Ok(1));
    }
    for issuer in ["spiffe://td/ns/portal/sa/web", "token:ci"] {
        assert_eq!(decide(&portal, sealed(issuer)), Ok(1), "{issuer}");
    }
    for issuer in ["spiffe://td/ns/other/sa/web", "token:ci2", ANONYMOUS, ""] {
        assert_eq!(decide(&portal, sealed(issuer)), Err(Mismatch::Issuer), "{issuer}");
    }
    assert_eq!(decide(&portal, raw), Err(Mismatch::NotSealed));
    // As for callers, no glob matches `anonymous`.
    assert_eq!(decide(&[by(&["*"])], sealed(ANONYMOUS)), Err(Mismatch::Issuer));
    assert_eq!(decide(&[by(&["*"])], raw), Err(Mismatch::NotSealed), "the issuer is not known");
    assert_eq!(decide(&[by(&["*", ANONYMOUS])], sealed(ANONYMOUS)), Ok(1));
    // Another rule may allow the login.
    let both = [by(&["token:ci"]), rule(&["dns:a"])];
    assert_eq!(
        [decide(&both, sealed("token:ci")), decide(&both, sealed("dns:b")), decide(&both, raw)],
        [Ok(1), Ok(2), Ok(2)]
    );
}

#[test]
fn login_urls_are_allowed_by_another_rule_or_not_at_all() {
    let without = || RuleSettings { login_urls: false, ..rule(&["dns:a"]) };
    let user = login("john");
    let decide = |rules: &[RuleSettings], token_use| {
        let rules = Rules::try_new(rules.to_vec()).unwrap();
        let question =
            Question { caller: principal("dns:a"), token_use, api_client: "eu2", user: Some(&user) };
        let answer = rules.answer(question);
        answer.deciding().map(|rule| rule.number).ok_or(answer.denial().unwrap_or(AccessDenial::Caller))
    };
    let (with_url, plain) = (TokenUse::Issue { login_url: true }, TokenUse::Issue { login_url: false });
    assert_eq!(decide(&[without()], plain), Ok(1));
    assert_eq!(decide(&[without()], with_url), Err(AccessDenial::LoginUrl));
    assert_eq!(decide(&[without()], TokenUse::plain(Method::LoginWithOtt)), Ok(1));
    let both = [without(), rule(&["dns:*"])];
    assert_eq!((decide(&both, plain), decide(&both, with_url)), (Ok(1), Ok(2)));
}

#[test]
fn rules_without_limits_on_tokens_have_no_index_of_them() {
    let rules = Rules::try_new(vec![rule(&["dns:a"]), rule(&["dns:b"])]).unwrap();
    for token_use in [
        TokenUse::Issue { login_url: true },
        TokenUse::Login { issued_by: None },
        TokenUse::Login { issued_by: Some("dns:a") },
    ] {
        assert_eq!(rules.index.for_token_use(token_use), None, "{token_use:?}");
    }
}
