//! Errors in files: each message states what was found and how to fix it.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/pki/", $name)).to_vec()
    };
}

/// The messages about a file as chain, key and authorities; `None` if it is accepted.
fn messages(file: &[u8]) -> [Option<String>; 3] {
    [
        CertificateChain::parse(file).err().map(|error| error.to_string()),
        PrivateKey::parse(file).err().map(|error| error.to_string()),
        Authorities::parse(file).err().map(|error| error.to_string()),
    ]
}

fn utf16(text: &str) -> Vec<u8> {
    let bytes = text.encode_utf16().flat_map(u16::to_le_bytes);
    b"\xff\xfe".iter().copied().chain(bytes).collect()
}

/// Errors that a file of any kind can have: name, file, expected finding, expected remedy.
fn invalid_files(text: &str) -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let end = text.find("-----END").unwrap();
    let without_first_line = text.split_once('\n').unwrap().1;
    vec![
        ("empty", Vec::new(), "is empty", "write"),
        ("blank", b" \n\t\r\n".to_vec(), "is empty", "write"),
        ("UTF-16", utf16(text), "text in UTF-16", "iconv -f UTF-16"),
        ("UTF-16 without a mark", utf16(text)[2..].to_vec(), "text in UTF-16", "iconv"),
        (
            "indented",
            bytes(&text.replace('\n', "\n  ").replacen('-', "  -", 1)),
            "line 1",
            "sed 's/^[[:space:]]*//'",
        ),
        ("escaped line breaks", bytes(&text.replace('\n', "\\n")), "line 1", "\\n written as two characters"),
        ("line breaks as spaces", bytes(&text.replace('\n', " ")), "line 1", "a line of its own"),
        ("joined", bytes(&format!("{}{text}", text.trim_end())), "line", "a line of its own"),
        ("text before the marker", bytes(&format!("key: {text}")), "line 1", "a line of its own"),
        ("cut", bytes(&text[..end - 10]), "line 1 of the file begins a block that is cut off", "copy"),
        ("cut in the END line", bytes(&text[..end + 12]), "not a valid marker", "five hyphens"),
        ("missing END", bytes(&format!("{}{text}", &text[..end])), "line 1", "END line is missing"),
        ("missing BEGIN", bytes(without_first_line), "BEGIN line is missing", "copy"),
        (
            "dashes",
            bytes(&text.replace("-----", "\u{2013}\u{2013}\u{2013}\u{2013}\u{2013}")),
            "line 1",
            "hyphens",
        ),
        (
            "Windows-1252 dashes",
            text.replace("-----", "~").bytes().map(|byte| if byte == b'~' { 0x97 } else { byte }).collect(),
            "line 1",
            "word processors",
        ),
        ("four hyphens", bytes(&text.replace("-----", "----")), "line 1", "five hyphens"),
        ("lower case", bytes(&text.replace("-----BEGIN", "-----begin")), "line 1", "capitals"),
        ("base64 of it", bytes(&STANDARD.encode(text)), "the base64 of a PEM file", "base64 -d OLD > NEW"),
        ("JSON", bytes(&format!("{{\"a\":\"{}\"}}", text.replace('\n', "\\n"))), "contains JSON", "field"),
        ("HTML", b"<html>404</html>".to_vec(), "HTML", "download"),
        ("text", b"see the other file\n".to_vec(), "text without a BEGIN line", "right file"),
        ("bytes", b"\x01\x02\x80\xff\0".to_vec(), "binary data", "right file"),
        ("not base64", bytes(&text.replace('\n', "\n*").replace("*-", "-")), "is not base64", "copy"),
        ("PKCS #12", fixture!("archive.p12"), "PKCS #12", "openssl pkcs12 -in OLD"),
        ("PKCS #7 in DER", fixture!("bundle.p7b"), "PKCS #7", "openssl pkcs7 -inform DER"),
        ("PKCS #7", fixture!("bundle.p7b.pem"), "PKCS #7", "openssl pkcs7 -print_certs"),
        ("Java key store", b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(), "Java key store", "keytool"),
        ("OpenSSH public key", b"ssh-rsa AAAA me@example".to_vec(), "an OpenSSH public key", "TLS"),
        (
            "unknown label",
            bytes(&text.replace("BEGIN ", "BEGIN OUR ").replace("END ", "END OUR ")),
            "unknown label",
            "correct the label",
        ),
    ]
}

#[test]
fn each_invalid_file_is_described_with_its_remedy() {
    let pair = pair();
    let mut different = std::collections::BTreeSet::new();
    for (place, text) in [&pair.chain, &pair.key, &pair.chain].into_iter().enumerate() {
        // In a chain, the first certificate is invalid.
        for (fault, file, found, remedy) in invalid_files(text) {
            let sentence = messages(&file)[place].clone().unwrap_or_else(|| panic!("accepted: {fault}"));
            assert!(sentence.contains(found), "{fault}: {sentence}");
            assert!(sentence.contains(remedy), "{fault}: {sentence}");
            different.insert(sentence);
        }
    }
    assert!(different.len() >= 25, "{different:#?}");
}

#[test]
fn files_of_another_kind_are_described_with_their_remedy() {
    const SWAPPED: &str = "are swapped, exchange them";
    let pair = pair();
    let der = |file: &str| CertificateChain::parse(file.as_bytes()).unwrap().leaf().der().to_vec();
    let cases: Vec<(Vec<u8>, [Option<&str>; 3])> = vec![
        (pair.key.clone().into(), [Some(SWAPPED), None, Some("name the file of the certificates")]),
        (pair.chain.clone().into(), [None, Some(SWAPPED), None]),
        (
            der(&pair.chain),
            [Some("x509 -inform DER"), Some("exchange the two files"), Some("x509 -inform DER")],
        ),
        (fixture!("key.der"), [Some("exchange"), Some("pkey -inform DER"), Some("exchange")]),
        (fixture!("encrypted_key.pem"), [Some(SWAPPED), Some("openssl pkey -in OLD -out NEW"), Some("name")]),
        (fixture!("encrypted_sec1_key.pem"), [Some(SWAPPED), Some("openssl pkey -in OLD"), Some("name")]),
        (fixture!("openssh_key.pem"), [Some(SWAPPED), Some("ssh-keygen -p"), Some("name")]),
        (fixture!("dsa_key.pem"), [Some(SWAPPED), Some("kind DSA"), Some("name")]),
        (fixture!("ed448_key.pem"), [Some(SWAPPED), Some("kind Ed448"), Some("name")]),
        (fixture!("secp256k1_key.pem"), [Some(SWAPPED), Some("uncommon curve"), Some("name")]),
        (fixture!("short_rsa_key.pem"), [Some(SWAPPED), Some("1024 bits"), Some("name")]),
        (fixture!("short_rsa_pkcs8_key.pem"), [Some(SWAPPED), Some("1024 bits"), Some("name")]),
        (fixture!("public_key.pem"), [Some("part of"), Some("use the private key"), Some("part of")]),
        (
            fixture!("request.pem"),
            [Some("has issued"), Some("the request was made with"), Some("has issued")],
        ),
        (
            fixture!("revocation_list.pem"),
            [Some("revocation list"), Some("revocation list"), Some("revocation list")],
        ),
        (fixture!("trusted.pem"), [Some("openssl x509 -in"), Some("TRUSTED"), Some("openssl x509 -in")]),
        (fixture!("version1.pem"), [Some("version 1"), Some(SWAPPED), None]),
        (
            [pair.key.clone(), super::pair().key].concat().into(),
            [Some(SWAPPED), Some("2 private keys"), Some("name")],
        ),
    ];
    for (file, expected) in cases {
        let shown = String::from_utf8_lossy(&file).lines().next().unwrap_or_default().to_owned();
        for (sentence, expected) in messages(&file).into_iter().zip(expected) {
            match (&sentence, expected) {
                (Some(sentence), Some(expected)) => {
                    assert!(sentence.contains(expected), "{shown}: {sentence}");
                }
                (None, None) => {}
                _ => panic!("{shown}: {sentence:?}, expected {expected:?}"),
            }
        }
    }
}

#[test]
fn block_that_is_not_a_certificate_is_refused_at_any_position() {
    let pair = pair();
    let block = |der: &[u8]| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    };
    let leaf = CertificateChain::parse(pair.chain.as_bytes()).unwrap().leaf().der().to_vec();
    for (what, broken) in [
        ("garbage", block(b"\0\0\0")),
        ("empty", block(b"")),
        ("cut", block(&leaf[..leaf.len() - 1])),
        ("followed by bytes", block(&[&leaf[..], b"\0"].concat())),
        ("a request", String::from_utf8(fixture!("request.pem")).unwrap().replace(" REQUEST", "")),
        ("a key", pair.key.replace("PRIVATE KEY", "CERTIFICATE")),
    ] {
        let line = pair.chain.lines().count() + 1;
        let file = format!("{}{broken}{}", pair.chain, authority().pem());
        for place in [0, 2] {
            let sentence =
                messages(file.as_bytes())[place].clone().unwrap_or_else(|| panic!("accepted: {what}"));
            assert!(sentence.contains(&format!("block 3 of the file (line {line})")), "{what}: {sentence}");
        }
    }
    // Other kinds of blocks are skipped, as by OpenSSL.
    let list = String::from_utf8(fixture!("revocation_list.pem")).unwrap();
    assert!(Authorities::parse(format!("{list}{}", authority().pem()).as_bytes()).is_ok());
}
