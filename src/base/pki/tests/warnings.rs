//! Certificates that peers refuse.

use std::time::{Duration, SystemTime};

use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};

use super::*;
use crate::base::pki::certificate::KeyKind;

/// A time in 2027.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(508_333)
}

fn warnings(chain: &str) -> Vec<(usize, Doubt)> {
    let warnings = CertificateChain::parse(chain.as_bytes()).expect("a chain").warnings(now());
    warnings.into_iter().map(|warning| (warning.number, warning.doubt)).collect()
}

fn of(change: impl FnOnce(&mut CertificateParams)) -> Vec<(usize, Doubt)> {
    warnings(&pair_with(&KeyPair::generate().unwrap(), change).chain)
}

#[test]
fn usual_certificates_have_no_warnings() {
    assert_eq!(of(|_| {}), []);
    assert_eq!(
        of(|params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
        }),
        []
    );
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert_eq!(warnings(&pair_with(&rsa, |_| {}).chain), []);
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(warnings(&pair_with(&p384, |_| {}).chain), []);
}

#[test]
fn certificates_that_clients_refuse_cause_warnings() {
    assert_eq!(of(|params| params.subject_alt_names.clear()), [(1, Doubt::NoNames)]);
    assert_eq!(
        of(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        [(1, Doubt::NotForServers)]
    );
    assert_eq!(
        of(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        [(1, Doubt::NoDigitalSignature)]
    );
    assert_eq!(
        of(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        [(1, Doubt::AuthorityAsServer)]
    );
    let year = |year| date_time_ymd(year, 1, 1);
    assert!(matches!(of(|params| params.not_after = year(2020))[..], [(1, Doubt::Expired(_))]));
    assert!(matches!(of(|params| params.not_before = year(2090))[..], [(1, Doubt::NotYetValid(_))]));
    let openssl = include_str!("../../../../tests/fixtures/pki/ca_as_server.pem");
    assert_eq!(warnings(openssl), [(1, Doubt::NoNames), (1, Doubt::AuthorityAsServer)]);
}

#[test]
fn keys_that_clients_cannot_use_cause_warnings() {
    for (algorithm, kind) in [(&PKCS_ED25519, KeyKind::Ed25519), (&PKCS_ECDSA_P521_SHA512, KeyKind::P521)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pair = pair_with(&key, |_| {});
        assert!(is_pair(&pair.chain, &pair.key), "{kind}");
        assert_eq!(warnings(&pair.chain), [(1, Doubt::UnusualKey(kind))]);
    }
    let short = include_str!("../../../../tests/fixtures/pki/short_rsa_ca.pem");
    let authorities = Authorities::parse(short.as_bytes()).expect("authorities").warnings(now());
    assert_eq!(authorities, [Warning { number: 1, doubt: Doubt::ShortRsa(1024) }]);
    let weak = include_str!("../../../../tests/fixtures/pki/sha1.pem");
    assert_eq!(warnings(weak), [(1, Doubt::WeakSignature)]);
}

#[test]
fn chain_in_the_wrong_order_causes_a_warning() {
    let (one, other) = (pair(), pair());
    let leaf = one.chain.replace(&one.authority.pem(), "");
    assert_eq!(warnings(&leaf), [], "clients may trust the issuer directly");
    // The same name with another key.
    assert_eq!(warnings(&format!("{leaf}{}", other.authority.pem())), [(2, Doubt::NotIssuer)]);
    let other_leaf = other.chain.replace(&other.authority.pem(), "");
    assert_eq!(warnings(&format!("{leaf}{other_leaf}")), [(2, Doubt::NotAuthority)]);
    assert_eq!(
        warnings(&format!("{}{}", one.chain, other.authority.pem())),
        [(3, Doubt::NotIssuer)],
        "the third one"
    );

    // authorityInfoAccess with caIssuers, so clients would have to fetch the issuer.
    let access = [
        &[0x30, 0x1a, 0x30, 0x18, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02, 0x86, 0x0c][..],
        b"http://ca.a/",
    ]
    .concat();
    let with_access = |params: &mut CertificateParams| {
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access.clone())];
    };
    let public = pair_with(&KeyPair::generate().unwrap(), with_access);
    assert_eq!(warnings(&public.chain), []);
    assert_eq!(warnings(&public.chain.replace(&public.authority.pem(), "")), [(1, Doubt::NoIntermediate)]);
}

/// A server's certificate, an intermediate authority and its root.
fn chain_through(root_length: Option<u8>, change: impl FnOnce(&mut CertificateParams)) -> String {
    let named = |name: &str, is_ca| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let constraints = root_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
    let root =
        CertifiedIssuer::self_signed(named("root", IsCa::Ca(constraints)), KeyPair::generate().unwrap())
            .unwrap();
    let mut params = named("intermediate", IsCa::Ca(BasicConstraints::Unconstrained));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &root).unwrap();
    let intermediate = rcgen::Issuer::new(params, key);
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &intermediate).unwrap();
    leaf.pem() + &certificate.pem() + &root.pem()
}

#[test]
fn issuers_that_clients_refuse_cause_warnings() {
    let usual = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    assert_eq!(warnings(&chain_through(Some(1), |params| params.key_usages = usual.to_vec())), []);
    let of = |change: fn(&mut CertificateParams)| warnings(&chain_through(None, change));
    assert_eq!(of(|params| params.is_ca = IsCa::ExplicitNoCa), [(2, Doubt::IssuerNotAuthority)]);
    assert_eq!(of(|params| params.is_ca = IsCa::NoCa), [(2, Doubt::IssuerNotAuthority)]);
    assert_eq!(
        of(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        [(2, Doubt::IssuerMayNotSign)]
    );
    assert_eq!(
        of(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        [(2, Doubt::IssuerNotForServers)]
    );
    assert_eq!(warnings(&chain_through(Some(0), |_| {})), [(3, Doubt::ChainTooLong(0))]);
    for doubt in [Doubt::IssuerNotAuthority, Doubt::IssuerMayNotSign, Doubt::IssuerNotForServers] {
        let text = Warning { number: 2, doubt }.to_string();
        assert!(text.starts_with("certificate 2 of the file has issued the certificate before it"), "{text}");
    }
}

#[test]
fn private_key_among_authorities_causes_a_warning() {
    let pair = pair();
    let bundle = Authorities::parse(format!("{}{}", pair.authority.pem(), pair.key).as_bytes()).unwrap();
    assert_eq!(bundle.warnings(now()), [Warning { number: 2, doubt: Doubt::PrivateKey }]);
}
