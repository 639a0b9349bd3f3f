use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    base::clock,
    domain::ott::{OneTimeToken, SealedToken, Subject, SubjectKind},
    observe::telemetry::{logging::captured::CapturedLog, metrics::SealRefusal},
    token_binding::Binding,
};

const OLD: &str = "2026-10 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const NEW: &str = "2026-11 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n";
/// Another key with the id of `OLD`.
const OLD_ID: &str = "2026-10 QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=\n";
/// Maximum time from writing keys to their use.
const PICKED_UP: Duration = Duration::from_secs(10);

/// Token binding with the keys of a followed file.
struct Running {
    folder: TempDir,
    token_binding: TokenBinding,
    metrics: Metrics,
    log: CapturedLog,
    _follower: AbortOnDropHandle<()>,
}

impl Running {
    fn start(keys: &str) -> Self {
        Self::start_with_mode(keys, 0o600)
    }

    fn start_with_mode(keys: &str, mode: u32) -> Self {
        let log = CapturedLog::start();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token.keys");
        fs::write(&path, keys).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let metrics = Metrics::new();
        let wall = WallClock::following_monotonic();
        let (token_binding, mut follower) = KeyFile::open(path, &metrics, wall).expect("valid keys");
        let following = tokio::spawn(async move { match follower.run().await {} });
        Self { folder, token_binding, metrics, log, _follower: AbortOnDropHandle::new(following) }
    }

    /// Replaces the file by a rename.
    fn put(&self, keys: &str) {
        let (new, path) = (self.folder.path().join("new"), self.folder.path().join("token.keys"));
        fs::write(&new, keys).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::rename(new, path).expect("renamed");
    }

    fn seal(&self) -> SealedToken {
        let now = self.token_binding.now();
        let binding = Binding {
            api_client: "eu2".to_owned(),
            subject: Subject::new(SubjectKind::Login, "anna".to_owned()).expect("a login"),
            issued_by: "anonymous".to_owned(),
            issued_at: now,
            expires_at: now + Duration::from_hours(1),
        };
        let ott = OneTimeToken::try_new("canary-token".to_owned()).expect("a token");
        self.token_binding.seal(&ott, &binding).expect("sealed")
    }

    fn opens(&self, sealed: &SealedToken) -> Result<(), SealRefusal> {
        self.token_binding.open(sealed).map(drop)
    }

    /// Waits until tokens are sealed with the key of this id.
    async fn seals_with(&self, id: &str) {
        let (start, prefix) = (clock::now(), format!("ottgw1.{id}."));
        while !self.seal().expose().starts_with(&prefix) {
            assert!(start.elapsed() <= PICKED_UP, "{id} is not in use after {:?}", start.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn count(&self, series: &str) -> Option<String> {
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(series)).map(|value| value.trim().to_owned())
    }

    /// Waits until this many versions have been refused.
    async fn has_refused(&self, number: u32) {
        let start = clock::now();
        while self.count(r#"ott_gateway_reloads_total{result="failed",what="token_keys"}"#)
            != Some(number.to_string())
        {
            assert!(start.elapsed() <= PICKED_UP, "not refused after {:?}", start.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn assert_log_has_no_key(&self) {
        let log = self.log.text();
        for secret in ["AAECAwQF", "ICEiIyQl", "QEFCQ0RF", "Y2FuYXJ5", "canary"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_in_three_steps_refuses_no_token_and_warns_of_nothing() {
    let running = Running::start(OLD);
    let first = running.seal();
    for (keys, sealing) in
        [(format!("{OLD}{NEW}"), "2026-10"), (format!("{NEW}{OLD}"), "2026-11"), (NEW.to_owned(), "2026-11")]
    {
        let ids: Vec<&str> = keys.lines().map(|line| &line[..7]).collect();
        let expected = "token keys in use";
        let before = running.log.text().matches(expected).count();
        running.put(&keys);
        let start = clock::now();
        while running.log.text().matches(expected).count() == before {
            assert!(start.elapsed() <= PICKED_UP, "{keys}");
            sleep(Duration::from_millis(100)).await;
        }
        running.seals_with(sealing).await;
        let log = running.log.text();
        let line = log.lines().rfind(|line| line.contains(expected)).expect("a line");
        assert!(line.contains(&format!("token_keys.sealing=\"{sealing}\"")), "{line}");
        assert!(line.contains(&format!("token_keys.ids=\"{}\"", ids.join(", "))), "{line}");
        let opened = running.opens(&first);
        assert_eq!(opened, if ids.contains(&"2026-10") { Ok(()) } else { Err(SealRefusal::UnknownKey) });
    }
    assert!(!running.log.text().contains("WARN"), "{}", running.log.text());
    assert_eq!(
        running.count(r#"ott_gateway_reloads_total{result="ok",what="token_keys"}"#).as_deref(),
        Some("3")
    );
    assert_eq!(running.count(r#"ott_gateway_reload_failing{what="token_keys"}"#).as_deref(), Some("0"));
    running.assert_log_has_no_key();
}

#[tokio::test(start_paused = true)]
async fn rotation_without_a_step_is_used_with_a_warning() {
    const SEALS_AT_ONCE: &str = "new token key seals before every replica can open";
    const REMOVED: &str = "token key removed while its tokens were valid";
    for (keys, sealing, expected) in [
        (format!("{NEW}{OLD}"), "2026-11", &[SEALS_AT_ONCE][..]),
        (NEW.to_owned(), "2026-11", &[SEALS_AT_ONCE, REMOVED]),
        // An id that is used again for another key is another key.
        (format!("{NEW}{OLD_ID}"), "2026-11", &[SEALS_AT_ONCE, REMOVED]),
    ] {
        let running = Running::start(OLD);
        running.put(&keys);
        running.seals_with(sealing).await;
        let log = running.log.text();
        for warning in [SEALS_AT_ONCE, REMOVED] {
            assert_eq!(log.contains(warning), expected.contains(&warning), "{keys}: {log}");
        }
        running.assert_log_has_no_key();
    }
}

#[tokio::test(start_paused = true)]
async fn unusable_versions_are_refused_once_and_the_keys_stay_in_use() {
    let running = Running::start(OLD);
    let sealed = running.seal();
    let repeated = format!("{NEW}{NEW}");
    let broken: [&[u8]; 5] = [b"", b"canary Y2FuYXJ5\n", b"2026-11\n", b"\xff", repeated.as_bytes()];
    for (keys, number) in broken.into_iter().zip(1..) {
        fs::write(running.folder.path().join("token.keys"), keys).expect("a file");
        running.has_refused(number).await;
        assert_eq!(running.opens(&sealed), Ok(()));
        assert!(running.seal().expose().starts_with("ottgw1.2026-10."));
        assert_eq!(running.count(r#"ott_gateway_reload_failing{what="token_keys"}"#).as_deref(), Some("1"));
    }
    sleep(Duration::from_mins(5)).await;
    let log = running.log.text();
    assert_eq!(
        log.matches("new token keys refused, keeping the current ones").count(),
        broken.len(),
        "{log}"
    );
    assert!(log.contains("lines 1 and 2 have the same id"), "{log}");
    running.assert_log_has_no_key();
    // Recovery.
    running.put(&format!("{NEW}{OLD}"));
    running.seals_with("2026-11").await;
    assert_eq!(running.opens(&sealed), Ok(()));
    assert_eq!(running.count(r#"ott_gateway_reload_failing{what="token_keys"}"#).as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn removed_file_leaves_the_keys_in_use() {
    let running = Running::start(OLD);
    let sealed = running.seal();
    fs::remove_file(running.folder.path().join("token.keys")).expect("removed");
    running.has_refused(1).await;
    assert_eq!(running.opens(&sealed), Ok(()));
    assert!(running.log.text().contains("no such file"), "{}", running.log.text());
    running.put(OLD);
    let start = clock::now();
    let recovered = "file usable again, contents unchanged";
    while !running.log.text().contains(recovered) {
        assert!(start.elapsed() < Duration::from_mins(1), "{}", running.log.text());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn file_that_becomes_readable_by_all_is_logged_once() {
    let running = Running::start(OLD);
    let path = running.folder.path().join("token.keys");
    let logged = || running.log.text().matches("token key file is readable by every user").count();
    for expected in [1, 2] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        sleep(Duration::from_mins(1)).await;
        assert_eq!(logged(), expected);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        sleep(Duration::from_mins(1)).await;
        assert_eq!(logged(), expected);
    }
}

/// The configuration warned of it at start.
#[tokio::test(start_paused = true)]
async fn file_that_is_readable_by_all_at_start_is_not_logged_again() {
    let running = Running::start_with_mode(OLD, 0o644);
    sleep(Duration::from_mins(1)).await;
    assert!(!running.log.text().contains("WARN"), "{}", running.log.text());
    running.put(&format!("{OLD}{NEW}"));
    let path = running.folder.path().join("token.keys");
    sleep(Duration::from_mins(1)).await;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("a mode");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(running.log.text().matches("token key file is readable by every user").count(), 1);
}

#[test]
fn missing_file_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = KeyFile::open(folder.path().join("none"), &Metrics::new(), WallClock::system());
    assert_eq!(opened.map(drop).expect_err("no file").to_string(), "no such file");
}
