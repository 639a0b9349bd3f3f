//! Reloads of changed files, poll by poll.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    observe::telemetry::logging::captured::CapturedLog,
    server::{
        tests::authority::{Authority, Folder, Identity},
        tls::ClientAuth,
    },
};

/// TLS files that are followed with a clock that starts in 2026.
///
/// The tests act halfway between two polls, because the files must not change while a poll reads
/// them on its own thread. For the same reason, they set the wall clock instead of advancing time.
struct Followed {
    current: Current,
    metrics: Metrics,
    clock: WallClock,
    interval: Duration,
    _task: AbortOnDropHandle<()>,
}

impl Followed {
    /// Returns after the first poll.
    async fn start(settings: Settings) -> Self {
        let (metrics, interval) = (Metrics::new(), settings.poll_interval);
        let clock = WallClock::following_monotonic();
        let mut reload = Reload::start(settings).unwrap();
        reload.clock = clock.clone();
        let current = reload.current();
        let task = {
            let metrics = metrics.clone();
            AbortOnDropHandle::new(tokio::spawn(async move { match reload.run(&metrics).await {} }))
        };
        sleep(interval / 2).await;
        Self { current, metrics, clock, interval, _task: task }
    }

    fn in_use(&self) -> Arc<ServerConfig> {
        self.current.load()
    }

    /// Waits for the polls that a change needs, and returns whether the configuration was replaced.
    async fn picks_up_change(&self) -> bool {
        let before = self.in_use();
        sleep(self.interval * 3).await;
        !Arc::ptr_eq(&before, &self.in_use())
    }

    fn set_clock_forward(&self, by: Duration) {
        self.clock.shift_by_ms(by.as_millis().try_into().unwrap());
    }

    fn shows(&self, series: &str) -> Option<i64> {
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// For certificate and client CAs: number of versions applied, number refused, and whether
    /// the newest is refused.
    fn counts(&self) -> [[i64; 3]; 2] {
        ["certificate", "client_ca"].map(|what| {
            let reloads = |result| {
                self.shows(&format!(r#"ott_gateway_reloads_total{{result="{result}",what="{what}"}}"#))
            };
            let failing = self.shows(&format!(r#"ott_gateway_reload_failing{{what="{what}"}}"#));
            [reloads("ok"), reloads("failed"), failing].map(Option::unwrap_or_default)
        })
    }

    /// The year in which the next certificate expires.
    fn ends(&self, certificate: &str) -> i64 {
        let series =
            format!("ott_gateway_certificate_not_after_timestamp_seconds{{certificate=\"{certificate}\"}}");
        // Rounded, because a year does not begin exactly at a multiple of its mean length.
        1970 + (self.shows(&series).unwrap() + 15_000_000) / 31_556_952
    }
}

async fn start(folder: &Folder) -> Followed {
    Followed::start(folder.settings(ClientAuth::Off)).await
}

#[tokio::test(start_paused = true)]
async fn new_pair_is_in_use_after_two_polls_that_see_the_same_files() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let followed = start(&folder).await;
    let first = followed.in_use();
    folder.write(&authority.issue("localhost"));
    sleep(followed.interval).await;
    assert!(Arc::ptr_eq(&first, &followed.in_use()), "the files may still be changing");
    sleep(followed.interval).await;
    assert!(!Arc::ptr_eq(&first, &followed.in_use()));
    assert!(!followed.picks_up_change().await, "one version is loaded once");
}

#[tokio::test(start_paused = true)]
async fn unusable_pair_is_refused_as_a_whole_and_the_last_valid_one_stays() {
    let authority = Authority::new();
    let old = authority.issue("localhost");
    let folder = Folder::new(&old);
    let followed = start(&folder).await;

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
        assert!(!followed.picks_up_change().await, "{what}");
    }
    fs::remove_file(folder.path().join("tls.key")).unwrap();
    assert!(!followed.picks_up_change().await, "a file is missing");

    folder.write(&new);
    assert!(followed.picks_up_change().await, "a valid pair is applied afterwards");
}

#[tokio::test(start_paused = true)]
async fn swap_of_a_symlinked_parent_directory_is_detected() {
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
    let followed = start(&folder).await;
    symlink("..two", folder.path().join("..new")).unwrap();
    fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    assert!(followed.picks_up_change().await);
}

#[tokio::test(start_paused = true)]
async fn new_client_cas_are_taken_over_and_unusable_ones_are_refused() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let settings = folder.settings(ClientAuth::Require { ca_file });
    let followed = Followed::start(settings).await;
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        folder.write_file("ca.crt", bad);
        assert!(!followed.picks_up_change().await, "{bad:?}");
    }
    folder.write_file("ca.crt", &Authority::new().certificate());
    assert!(followed.picks_up_change().await);
}

#[tokio::test(start_paused = true)]
async fn certificate_and_client_ca_are_counted_separately() {
    let authority = Authority::new();
    let good = authority.issue("localhost");
    let folder = Folder::new(&good);
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let followed = Followed::start(folder.settings(ClientAuth::Optional { ca_file })).await;
    let counts = async || {
        followed.picks_up_change().await;
        followed.counts()
    };
    assert_eq!(counts().await, [[0, 0, 0], [0, 0, 0]]);
    folder.write(&authority.issue("localhost"));
    assert_eq!(counts().await, [[1, 0, 0], [0, 0, 0]]);
    folder.write_file("ca.crt", "");
    assert_eq!(counts().await, [[1, 0, 0], [0, 1, 1]]);
    assert_eq!(counts().await, [[1, 0, 0], [0, 1, 1]]);
    folder.write_file("ca.crt", &authority.certificate());
    assert_eq!(counts().await, [[1, 0, 0], [0, 1, 0]], "the original version stayed in use");
    folder.write_file("ca.crt", &Authority::new().certificate());
    assert_eq!(counts().await, [[1, 0, 0], [1, 1, 0]]);
    folder.write_file("ca.crt", "");
    assert_eq!(counts().await, [[1, 0, 0], [1, 2, 1]]);
    folder.write_file("ca.crt", &authority.certificate());
    folder.write(&good);
    assert_eq!(counts().await, [[2, 0, 0], [2, 2, 0]]);
}

#[tokio::test(start_paused = true)]
async fn each_file_is_taken_over_even_if_the_other_cannot_be_used() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let followed = Followed::start(folder.settings(ClientAuth::Require { ca_file })).await;
    // A renewal that has replaced the certificate but not the key.
    folder.write_file("tls.crt", &authority.issue("localhost").certificate);
    assert!(!followed.picks_up_change().await);
    folder.write_file("ca.crt", &Authority::new().certificate());
    assert!(followed.picks_up_change().await, "the authority is withdrawn");
    assert_eq!(followed.counts(), [[0, 1, 1], [1, 0, 0]]);

    folder.write_file("ca.crt", "nothing");
    assert!(!followed.picks_up_change().await);
    folder.write(&authority.issue("localhost"));
    assert!(followed.picks_up_change().await, "the certificate is renewed");
    assert_eq!(followed.counts(), [[1, 1, 0], [1, 1, 1]]);
}

const YEAR: Duration = Duration::from_hours(366 * 24);

#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_valid_now_is_refused_until_it_is() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let followed = start(&folder).await;
    let log = CapturedLog::start();

    folder.write(&authority.issue_valid("localhost", (2020, 2026)));
    assert!(followed.picks_up_change().await, "still valid in its last second");
    folder.write(&authority.issue_valid("localhost", (2020, 2028)));
    assert!(followed.picks_up_change().await);
    folder.write(&authority.issue_valid("localhost", (2020, 2025)));
    assert!(!followed.picks_up_change().await);
    folder.write(&authority.issue_valid("localhost", (2027, 2030)));
    for _ in 0..5 {
        assert!(!followed.picks_up_change().await);
    }
    assert_eq!(followed.counts()[0], [2, 2, 1], "each counted once");
    assert_eq!(followed.ends("server"), 2028, "the expiry of the one in use");
    for words in [
        "certificate 1 of the file expired at 2025-01-01T00:00:00Z",
        "certificate 1 of the file is not valid before 2027-01-01T00:00:00Z",
    ] {
        assert_eq!(log.text().matches(words).count(), 1, "{}", log.text());
    }

    followed.set_clock_forward(YEAR);
    assert!(followed.picks_up_change().await, "the file is unchanged, and its certificate has become valid");
    assert_eq!((followed.counts()[0], followed.ends("server")), ([3, 2, 0], 2030));
}

/// As after a restart, where there is no valid one to keep.
#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_valid_now_replaces_another_that_is_not() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue_valid("localhost", (2020, 2025)));
    let followed = start(&folder).await;
    for years in [(2020, 2024), (2020, 2025), (2027, 2030)] {
        folder.write(&authority.issue_valid("localhost", years));
        assert!(followed.picks_up_change().await, "{years:?}");
    }
    assert_eq!(followed.counts()[0], [3, 0, 0]);
    folder.write(&authority.issue_valid("localhost", (2020, 2028)));
    assert!(followed.picks_up_change().await);
    // The one in use expires while an expired one waits.
    folder.write(&authority.issue_valid("localhost", (2020, 2025)));
    assert!(!followed.picks_up_change().await);
    followed.set_clock_forward(YEAR * 3);
    assert!(followed.picks_up_change().await);
    assert_eq!(followed.counts()[0], [5, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn errors_of_certificate_and_key_are_reported_together() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let followed = start(&folder).await;
    let log = CapturedLog::start();
    for name in ["tls.crt", "tls.key"] {
        folder.write_file(name, "nothing");
    }
    assert!(!followed.picks_up_change().await);
    assert_eq!(followed.counts()[0], [0, 1, 1]);
    let text = log.text();
    let line = text.lines().find(|line| line.contains("new TLS files refused")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        assert!(line.contains(&format!("{}: ", folder.path().join(name).display())), "{line}");
    }
    let error = Reload::start(folder.settings(ClientAuth::Off)).unwrap_err();
    assert!(matches!(error, TlsError::Both { .. }), "{error:?}");
    folder.write(&authority.issue("localhost"));
    assert!(followed.picks_up_change().await);
}

#[tokio::test(start_paused = true)]
async fn chain_is_refused_only_for_its_first_certificate() {
    let old = Authority::valid((2000, 2025));
    let folder = Folder::new(&Authority::new().issue("localhost"));
    let followed = Followed::start(folder.settings(ClientAuth::Off)).await;
    let leaf = old.issue_valid("localhost", (2020, 2030));
    let chain = |last: &Authority| format!("{}{}", leaf.certificate, last.certificate());
    folder.write(&Identity { certificate: chain(&old), private_key: leaf.private_key.clone() });
    assert!(followed.picks_up_change().await);
    assert_eq!(followed.ends("server"), 2030, "certificates that have already expired are left out");
    let ends_first = Authority::valid((2000, 2028));
    folder.write(&Identity { certificate: chain(&ends_first), private_key: leaf.private_key.clone() });
    assert!(followed.picks_up_change().await);
    assert_eq!(followed.ends("server"), 2028);
}

#[tokio::test(start_paused = true)]
async fn one_client_ca_of_several_may_expire() {
    let authorities = [(2000, 2025), (2000, 2027), (2000, 2040), (2035, 2050)].map(Authority::valid);
    let [expired, ends_first, valid, not_yet] = authorities.each_ref().map(Authority::certificate);
    let folder = Folder::new(&Authority::new().issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &valid);
    let followed = Followed::start(folder.settings(ClientAuth::Require { ca_file })).await;
    let apply = async |bundle: &str| {
        folder.write_file("ca.crt", bundle);
        followed.picks_up_change().await
    };
    assert!(apply(&format!("{expired}{ends_first}{valid}{not_yet}")).await);
    assert_eq!(followed.ends("client_ca"), 2027);
    // The next one expires while the bundle is in use.
    followed.set_clock_forward(YEAR * 2);
    assert!(!followed.picks_up_change().await);
    assert_eq!(followed.ends("client_ca"), 2040);
    followed.set_clock_forward(YEAR * 40);
    assert!(!followed.picks_up_change().await);
    assert_eq!(followed.ends("client_ca"), 2050, "all have expired: the last one");
}

/// Authorities that were removed from the file are not trusted, regardless of the state of the
/// others.
#[tokio::test(start_paused = true)]
async fn client_ca_is_withdrawn_even_if_no_other_one_is_valid() {
    let [expired, valid, not_yet] =
        [(2000, 2025), (2000, 2040), (2035, 2050)].map(|years| Authority::valid(years).certificate());
    for rest in [&expired, &not_yet, &format!("{expired}{not_yet}")] {
        let folder = Folder::new(&Authority::new().issue("localhost"));
        let ca_file = folder.write_file("ca.crt", &format!("{valid}{rest}"));
        let followed = Followed::start(folder.settings(ClientAuth::Require { ca_file })).await;
        let log = CapturedLog::start();
        folder.write_file("ca.crt", rest);
        assert!(followed.picks_up_change().await);
        assert_eq!(followed.shows(r#"ott_gateway_reload_failing{what="client_ca"}"#), Some(0));
        assert!(
            log.text().contains("certificate has expired")
                || log.text().contains("certificate is not valid yet")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn new_key_that_everyone_can_read_is_logged_as_a_warning() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let key_file = folder.path().join("tls.key");
    let followed = start(&folder).await;
    for (mode, warnings) in [(0o600, 0), (0o644, 1), (0o640, 0), (0o604, 1)] {
        let log = CapturedLog::start();
        folder.write(&authority.issue("localhost"));
        fs::set_permissions(&key_file, fs::Permissions::from_mode(mode)).unwrap();
        let before = followed.in_use();
        // The key is in use after two polls. Further polls do not repeat the warning.
        sleep(followed.interval * 6).await;
        assert!(!Arc::ptr_eq(&before, &followed.in_use()), "{mode:o}");
        let text = log.text();
        let path = key_file.display().to_string();
        let found = text.lines().filter(|line| line.contains(" WARN ") && line.contains(&path));
        assert_eq!(found.count(), warnings, "{mode:o}: {text}");
    }
}

#[test]
fn pair_that_does_not_match_is_a_startup_error() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    folder.write_file("tls.key", &authority.issue("localhost").private_key);
    let error = Reload::start(folder.settings(ClientAuth::Off)).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error:?}");
}
