//! Changed files, look by look.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;

use super::*;
use crate::server::{
    tests::authority::{Authority, Folder, Identity},
    tls::ClientAuth,
};
use crate::telemetry::logging::captured::CapturedLog;

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
        ["certificate", "client_ca"].map(|what| {
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

/// A reload whose clock starts in 2026, and what it shows.
struct Timed {
    reload: Reload,
    metrics: Metrics,
}

impl Timed {
    fn start(settings: Settings) -> Self {
        let mut reload = Reload::start(settings).unwrap();
        reload.clock = WallClock::following_monotonic();
        Self { reload, metrics: Metrics::new() }
    }

    /// Polls twice, and returns whether something else is in use.
    fn takes_over(&mut self) -> bool {
        let before = self.reload.in_use();
        for _ in 0..2 {
            self.reload.look(Contents::read(&self.reload.settings), &self.metrics);
            self.reload.expiry.follow(self.reload.clock.now(), &self.metrics);
        }
        !Arc::ptr_eq(&before, &self.reload.in_use())
    }

    fn shows(&self, series: &str) -> Option<i64> {
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The year in which the certificate that ends next expires.
    fn ends(&self, certificate: &str) -> i64 {
        let series =
            format!("ott_gateway_certificate_not_after_timestamp_seconds{{certificate=\"{certificate}\"}}");
        // Rounded: a year begins a little before or after a multiple of its mean length.
        1970 + (self.shows(&series).unwrap() + 15_000_000) / 31_556_952
    }
}

const YEAR: Duration = Duration::from_hours(366 * 24);

#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_valid_now_is_refused_until_it_is() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let mut timed = Timed::start(folder.settings(ClientAuth::Off));
    let failing = r#"ott_gateway_reload_failing{what="certificate"}"#;
    let failed = r#"ott_gateway_reloads_total{result="failed",what="certificate"}"#;

    folder.write(&authority.issue_valid("localhost", (2020, 2026)));
    assert!(timed.takes_over(), "on the last second it is still valid");
    tokio::time::advance(Duration::from_secs(1)).await;
    folder.write(&authority.issue_valid("localhost", (2020, 2025)));
    assert!(!timed.takes_over());
    folder.write(&authority.issue_valid("localhost", (2027, 2030)));
    for _ in 0..5 {
        assert!(!timed.takes_over());
    }
    assert_eq!((timed.shows(failing), timed.shows(failed)), (Some(1), Some(2)), "each counted once");
    assert_eq!(timed.ends("server"), 2026, "that of the one in use");

    tokio::time::advance(YEAR).await;
    assert!(timed.takes_over(), "the file is the same, and the time has come");
    assert_eq!((timed.shows(failing), timed.ends("server")), (Some(0), 2030));
}

#[tokio::test(start_paused = true)]
async fn chain_is_refused_for_its_first_certificate_only() {
    let old = Authority::valid((2000, 2025));
    let folder = Folder::new(&Authority::new().issue("localhost"));
    let mut timed = Timed::start(folder.settings(ClientAuth::Off));
    let leaf = old.issue_valid("localhost", (2020, 2030));
    let chain = |last: &Authority| format!("{}{}", leaf.certificate, last.certificate());
    folder.write(&Identity { certificate: chain(&old), private_key: leaf.private_key.clone() });
    assert!(timed.takes_over());
    assert_eq!(timed.ends("server"), 2030, "what has expired before is left out");
    let ends_first = Authority::valid((2000, 2028));
    folder.write(&Identity { certificate: chain(&ends_first), private_key: leaf.private_key.clone() });
    assert!(timed.takes_over());
    assert_eq!(timed.ends("server"), 2028);
}

#[tokio::test(start_paused = true)]
async fn one_client_ca_of_several_may_expire() {
    let authorities = [(2000, 2025), (2000, 2027), (2000, 2040), (2035, 2050)].map(Authority::valid);
    let [expired, ends_first, valid, not_yet] = authorities.each_ref().map(Authority::certificate);
    let folder = Folder::new(&Authority::new().issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &valid);
    let mut timed = Timed::start(folder.settings(ClientAuth::Require { ca_file }));
    let take_over = |timed: &mut Timed, bundle: &str| {
        folder.write_file("ca.crt", bundle);
        timed.takes_over()
    };
    assert!(!take_over(&mut timed, &expired));
    assert!(!take_over(&mut timed, &not_yet));
    assert!(!take_over(&mut timed, &format!("{expired}{not_yet}")), "none is valid");
    let failing = r#"ott_gateway_reload_failing{what="client_ca"}"#;
    assert_eq!(timed.shows(failing), Some(1));
    assert!(take_over(&mut timed, &format!("{expired}{ends_first}{valid}{not_yet}")));
    assert_eq!((timed.shows(failing), timed.ends("client_ca")), (Some(0), 2027));
    // While it is in use, the next one ends.
    tokio::time::advance(YEAR * 2).await;
    assert!(!timed.takes_over());
    assert_eq!(timed.ends("client_ca"), 2040);
    tokio::time::advance(YEAR * 40).await;
    assert!(!timed.takes_over());
    assert_eq!(timed.ends("client_ca"), 2050, "all have ended: the last one");
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
fn a_new_key_that_everyone_can_read_is_warned_about_in_the_log() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let key_file = folder.path().join("tls.key");
    let mut reload = start(&folder);
    for (mode, warnings) in [(0o600, 0), (0o644, 1), (0o640, 0), (0o604, 1)] {
        let log = CapturedLog::start();
        folder.write(&authority.issue("localhost"));
        fs::set_permissions(&key_file, fs::Permissions::from_mode(mode)).unwrap();
        let before = reload.in_use();
        // Two looks put it into use; more of them do not repeat the warning.
        (0..4).for_each(|_| reload.look_now());
        assert!(!Arc::ptr_eq(&before, &reload.in_use()), "{mode:o}");
        let text = log.text();
        let path = key_file.display().to_string();
        let found = text.lines().filter(|line| line.contains(" WARN ") && line.contains(&path));
        assert_eq!(found.count(), warnings, "{mode:o}: {text}");
    }
}

#[test]
fn pair_that_does_not_match_is_an_error_at_start() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    folder.write_file("tls.key", &authority.issue("localhost").private_key);
    let error = Reload::start(folder.settings(ClientAuth::Off)).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error:?}");
    assert_eq!(error.what(&ClientAuth::Off), CERTIFICATE);
}
