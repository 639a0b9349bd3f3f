//! Invalid files of every kind, and certificates that peers refuse.

mod explaining;
mod faults;
mod warnings;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;

/// A chain of a leaf and its authority, and the key of the leaf.
struct Pair {
    chain: String,
    key: String,
    authority: CertifiedIssuer<'static, KeyPair>,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pair_with(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let authority = authority();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let leaf = params.signed_by(key, &authority).unwrap();
    Pair { chain: leaf.pem() + &authority.pem(), key: key.serialize_pem(), authority }
}

fn pair() -> Pair {
    pair_with(&KeyPair::generate().unwrap(), |_| {})
}

/// Whether chain and key parse and form a pair.
fn is_pair(chain: &str, key: &str) -> bool {
    let chain = CertificateChain::parse(chain.as_bytes()).expect("a chain");
    ServerIdentity::new(chain, &PrivateKey::parse(key.as_bytes()).expect("a key")).is_ok()
}

#[test]
fn valid_files_are_accepted_as_openssl_accepts_them() {
    let pair = pair();
    let crlf = |text: &str| text.replace('\n', "\r\n");
    let cr = |text: &str| text.replace('\n', "\r");
    let mark = |text: &str| format!("\u{feff}{text}");
    let around = |text: &str| format!("subject=CN = a\n--- text ---\n{text}\ntrailing: text\n");
    let spaces = |text: &str| text.replace('\n', " \t\n");
    let no_end = |text: &str| text.trim_end().to_owned();
    let changes: [&dyn Fn(&str) -> String; 7] =
        [&crlf, &cr, &mark, &around, &spaces, &no_end, &|text| text.to_owned()];
    for (number, change) in changes.into_iter().enumerate() {
        assert!(is_pair(&change(&pair.chain), &change(&pair.key)), "{number}");
        let authorities = Authorities::parse(change(&pair.chain).as_bytes()).expect("authorities");
        assert_eq!(authorities.count(), 2, "{number}");
    }
    let combined = pair.key.clone() + &pair.chain;
    assert!(is_pair(&combined, &combined), "certificate and key in one file");
    let marked_twice = pair.chain.replace("-----BEGIN", "\u{feff}-----BEGIN");
    assert!(is_pair(&marked_twice, &pair.key), "concatenated files with a mark each");
    let old_label = pair.chain.replace(" CERTIFICATE", " X509 CERTIFICATE");
    assert!(is_pair(&old_label, &pair.key));
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let sec1 = include_str!("../../../tests/fixtures/pki/sec1_key.pem");
    assert!(PrivateKey::parse(format!("{parameters}{sec1}").as_bytes()).is_ok());
}

#[test]
fn pair_that_does_not_match_is_refused_with_the_reason() {
    let (one, other) = (pair(), pair());
    let pairs = |chain: &str, key: &str| {
        let chain = CertificateChain::parse(chain.as_bytes()).unwrap();
        ServerIdentity::new(chain, &PrivateKey::parse(key.as_bytes()).unwrap()).map(drop)
    };
    assert_eq!(pairs(&one.chain, &other.key), Err(InvalidPair::Mismatch));
    let leaf_end = one.chain.find("-----END CERTIFICATE-----\n").unwrap() + 26;
    let reversed = format!("{}{}", &one.chain[leaf_end..], &one.chain[..leaf_end]);
    assert_eq!(pairs(&reversed, &one.key), Err(InvalidPair::WrongOrder(2)));
    assert_eq!(pairs(&one.chain, &one.key), Ok(()));
}

#[test]
fn authorities_are_equal_regardless_of_order_and_text() {
    let [one, two] = [(), ()].map(|()| authority().pem());
    let parse = |text: String| Authorities::parse(text.as_bytes()).unwrap();
    let both = parse(format!("{one}{two}"));
    assert_eq!(both, parse(format!("# rotated today\n{two}{one}{two}")));
    assert_ne!(both, parse(one));
    assert_eq!(both.count(), 2);
}

proptest! {
    #[test]
    fn arbitrary_files_cause_no_panic_and_errors_are_printable(
        file in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        for error in errors(&file) {
            prop_assert!(error.chars().all(|char| !char.is_control()), "{error}");
        }
    }

    /// Texts that resemble PEM, with a secret word in every place.
    #[test]
    fn errors_contain_no_part_of_the_file(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("-----BEGIN PRIVATE KEY-----"), Just("-----END PRIVATE KEY-----"),
                Just("-----BEGIN CERTIFICATE-----"), Just("-----END CERTIFICATE-----"),
                Just("-----BEGIN c4nary-----"), Just("-----BEGIN C4NARY-----"), Just("-----END C4NARY-----"),
                Just("----BEGIN C4NARY"), Just("c4nary"), Just("C4NARYC4NARY"), Just("Proc-Type: 4,ENCRYPTED"),
                Just("\\n"), Just("\n"), Just("\n"), Just(" "), Just("\u{2013}"), Just("{"), Just("="),
            ],
            0..20,
        ),
    ) {
        for error in errors(parts.concat().as_bytes()) {
            prop_assert!(!error.to_lowercase().contains("c4nary"), "{error}");
        }
    }

    /// A truncated file is refused unless only white space is missing or the cut is between two
    /// blocks.
    #[test]
    fn truncated_file_is_refused_unless_it_ends_after_a_block(cut in 0_usize..2000) {
        let pair = pair();
        let cut = cut.min(pair.chain.len());
        let first = pair.chain.find("-----END CERTIFICATE-----").unwrap() + 25;
        if let Ok(chain) = CertificateChain::parse(&pair.chain.as_bytes()[..cut]) {
            let complete = cut >= pair.chain.trim_end().len();
            // A cut exactly between two blocks cannot be detected, and causes a warning.
            let between = (first..=first + 1).contains(&cut);
            prop_assert!(complete || between, "{cut}");
            prop_assert_eq!(chain.iter().count(), if complete { 2 } else { 1 });
        }
    }
}

fn errors(file: &[u8]) -> Vec<String> {
    [
        CertificateChain::parse(file).map(drop),
        PrivateKey::parse(file).map(drop),
        Authorities::parse(file).map(drop),
    ]
    .into_iter()
    .filter_map(Result::err)
    .map(|error| error.to_string())
    .collect()
}
