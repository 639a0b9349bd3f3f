//! Changed files, look by look.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
};

use rustls::ServerConfig;

use super::*;
use crate::server::{
    tests::authority::{Authority, Folder, Identity},
    tls::ClientAuth,
};

impl Reload {
    fn look_now(&mut self) {
        self.look(Contents::read(&self.settings), &Metrics::new());
    }

    fn in_use(&self) -> Arc<ServerConfig> {
        self.current.0.load_full()
    }
}

fn start(folder: &Folder) -> Reload {
    Reload::start(folder.settings(ClientAuth::Off)).unwrap()
}

#[test]
fn new_pair_is_in_use_after_two_looks_that_see_the_same() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let mut reload = start(&folder);
    let first = reload.in_use();
    reload.look_now();
    assert!(Arc::ptr_eq(&first, &reload.in_use()), "nothing has changed");
    folder.write(&authority.issue("localhost"));
    reload.look_now();
    assert!(Arc::ptr_eq(&first, &reload.in_use()), "it may still be changing");
    reload.look_now();
    let second = reload.in_use();
    assert!(!Arc::ptr_eq(&first, &second));
    reload.look_now();
    assert!(Arc::ptr_eq(&second, &reload.in_use()), "made once for one version");
}

#[test]
fn what_cannot_be_used_is_refused_as_a_whole_and_the_last_good_stays() {
    let authority = Authority::new();
    let old = authority.issue("localhost");
    let folder = Folder::new(&old);
    let mut reload = start(&folder);
    let first = reload.in_use();

    let new = authority.issue("localhost");
    let half = |pem: &str| pem[..pem.len() / 2].to_owned();
    let one_and_a_half = format!("{}{}", new.certificate, half(&new.certificate));
    let bad_pairs = [
        ("not a pair", new.certificate.clone(), old.private_key.clone()),
        ("not a pair", old.certificate.clone(), new.private_key.clone()),
        ("half a certificate", half(&new.certificate), new.private_key.clone()),
        ("half a chain", one_and_a_half, new.private_key.clone()),
        ("half a key", new.certificate.clone(), half(&new.private_key)),
        ("no certificate", String::new(), new.private_key.clone()),
        ("no key", new.certificate.clone(), String::new()),
    ];
    for (what, certificate, private_key) in bad_pairs {
        folder.write(&Identity { certificate, private_key });
        reload.look_now();
        reload.look_now();
        assert!(Arc::ptr_eq(&first, &reload.in_use()), "{what}");
    }
    fs::remove_file(folder.path().join("tls.key")).unwrap();
    reload.look_now();
    reload.look_now();
    assert!(Arc::ptr_eq(&first, &reload.in_use()), "a file is missing");

    folder.write(&new);
    reload.look_now();
    reload.look_now();
    assert!(!Arc::ptr_eq(&first, &reload.in_use()), "and a good pair is taken over after all that");
}

#[test]
fn swap_of_a_link_above_the_files_is_seen() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    for version in ["..one", "..two"] {
        fs::create_dir(folder.path().join(version)).unwrap();
        let identity = authority.issue("localhost");
        folder.write_file(&format!("{version}/tls.crt"), &identity.certificate);
        folder.write_file(&format!("{version}/tls.key"), &identity.private_key);
    }
    symlink("..one", folder.path().join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        fs::remove_file(folder.path().join(file)).unwrap();
        symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
    }
    let mut reload = start(&folder);
    let first = reload.in_use();
    symlink("..two", folder.path().join("..new")).unwrap();
    fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    reload.look_now();
    reload.look_now();
    assert!(!Arc::ptr_eq(&first, &reload.in_use()));
}

#[test]
fn client_cas_change_with_the_rest_and_bad_ones_are_refused() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let settings = folder.settings(ClientAuth::Require { ca_file });
    let mut reload = Reload::start(settings).unwrap();
    let first = reload.in_use();
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        folder.write_file("ca.crt", bad);
        reload.look_now();
        reload.look_now();
        assert!(Arc::ptr_eq(&first, &reload.in_use()), "{bad:?}");
        let error = Contents::read(&reload.settings).unwrap().configuration(&reload.settings).unwrap_err();
        assert_eq!(error.what(&reload.settings.client_auth), CLIENT_CA);
    }
    folder.write_file("ca.crt", &Authority::new().certificate());
    reload.look_now();
    reload.look_now();
    assert!(!Arc::ptr_eq(&first, &reload.in_use()));
}

#[test]
fn certificate_and_client_ca_are_counted_each_by_itself() {
    let authority = Authority::new();
    let good = authority.issue("localhost");
    let folder = Folder::new(&good);
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let mut reload = Reload::start(folder.settings(ClientAuth::Optional { ca_file })).unwrap();
    let metrics = Metrics::new();
    let mut counted_after_two_looks = || {
        for _ in 0..2 {
            reload.look(Contents::read(&reload.settings), &metrics);
        }
        let text = metrics.render();
        let value = |series: String| {
            text.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        [CERTIFICATE, CLIENT_CA].map(|what| {
            let reloads =
                |result| value(format!(r#"ott_gateway_reloads_total{{result="{result}",what="{what}"}}"#));
            let failing = value(format!(r#"ott_gateway_reload_failing{{what="{what}"}}"#));
            (reloads("ok"), reloads("failed"), failing)
        })
    };
    assert_eq!(counted_after_two_looks(), [(0, 0, 0), (0, 0, 0)]);
    folder.write(&authority.issue("localhost"));
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (0, 0, 0)]);
    folder.write_file("ca.crt", "");
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (0, 1, 1)]);
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (0, 1, 1)]);
    folder.write_file("ca.crt", &authority.certificate());
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (0, 1, 0)], "it was in use all the time");
    folder.write_file("ca.crt", &Authority::new().certificate());
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (1, 1, 0)]);
    folder.write_file("ca.crt", "");
    assert_eq!(counted_after_two_looks(), [(1, 0, 0), (1, 2, 1)]);
    folder.write_file("ca.crt", &authority.certificate());
    folder.write(&good);
    assert_eq!(counted_after_two_looks(), [(2, 0, 0), (2, 2, 0)]);
}

#[test]
fn a_new_key_that_everyone_can_read_is_noticed() {
    let folder = Folder::new(&Authority::new().issue("localhost"));
    let settings = folder.settings(ClientAuth::Off);
    for (mode, noticed) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&settings.private_key_file, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(Contents::read(&settings).unwrap().private_key_is_open(), noticed, "{mode:o}");
    }
}

#[test]
fn pair_that_does_not_match_is_an_error_at_start() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    folder.write_file("tls.key", &authority.issue("localhost").private_key);
    let error = Reload::start(folder.settings(ClientAuth::Off)).unwrap_err();
    assert!(matches!(error, TlsError::Pair(_)), "{error:?}");
    assert_eq!(error.what(&ClientAuth::Off), CERTIFICATE);
}
