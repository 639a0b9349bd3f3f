//! Sources of the secret, and its rotation.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use tempfile::TempDir;

use super::*;
use crate::observe::telemetry::logging::captured::CapturedLog;

/// Maximum time from writing a secret to the request that uses it.
const PICKED_UP: Duration = Duration::from_secs(10);

fn directory_with(name: &str, content: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory can be made");
    fs::write(directory.path().join(name), content).expect("it can be written");
    directory
}

impl Running {
    /// Starts with a secret file, and a token that was fetched with its secret.
    async fn start_with_file(path: &Path, secret: &str) -> Self {
        let mut running = Self::start_with(SecretSource::File(path.to_owned()));
        let request = running.request().await;
        assert_eq!(request.secret, secret);
        request.grant(LIFETIME);
        running.credential.bearer(soon()).await.expect("a token was granted");
        running
    }

    /// Waits for the token request that a changed secret causes, while the old token is in service.
    async fn uses(&mut self, secret: &str) -> TokenRequest {
        let changed = clock::now();
        let before = self.generation();
        let request = self.request().await;
        assert_eq!(request.secret, secret);
        assert!(request.at - changed <= PICKED_UP, "{:?}", request.at - changed);
        assert!(before.is_some() && self.generation() == before);
        request
    }
}

#[tokio::test(start_paused = true)]
async fn secret_replaced_by_a_rename_is_used_and_the_old_token_stays_until_it_works() {
    let directory = directory_with("secret", "old\n");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    let old = running.generation();
    sleep(seconds(100)).await;

    fs::write(directory.path().join("next"), "new\n").expect("it can be written");
    fs::rename(directory.path().join("next"), &path).expect("it can be renamed");
    let request = running.uses("new").await;
    sleep(seconds(5)).await;
    assert_eq!(running.generation(), old);
    request.grant(LIFETIME);
    settle().await;
    assert!(running.generation() > old);
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn secret_behind_a_swapped_symbolic_link_is_used() {
    // The layout of a mounted Kubernetes secret.
    let directory = tempfile::tempdir().expect("a directory can be made");
    let at = |name: &str| directory.path().join(name);
    for (version, secret) in [("..v1", "old"), ("..v2", "new")] {
        fs::create_dir(at(version)).expect("it can be made");
        fs::write(at(version).join("secret"), secret).expect("it can be written");
    }
    symlink("..v1", at("..data")).expect("it can be linked");
    symlink("..data/secret", at("secret")).expect("it can be linked");
    let mut running = Running::start_with_file(&at("secret"), "old").await;

    symlink("..v2", at("..data_tmp")).expect("it can be linked");
    fs::rename(at("..data_tmp"), at("..data")).expect("it can be renamed");
    running.uses("new").await.grant(LIFETIME);
}

/// Fails if a secret is used after a single reading.
#[tokio::test(start_paused = true)]
async fn half_written_secret_is_not_used() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    sleep(seconds(1)).await;

    fs::write(&path, "half").expect("it can be written");
    running.is_quiet_for(crate::base::files::POLL_INTERVAL).await;
    fs::write(&path, "half and half").expect("it can be written");
    running.uses("half and half").await.grant(LIFETIME);
}

#[tokio::test(start_paused = true)]
async fn secret_that_is_still_being_written_is_not_used_even_if_its_content_is_unchanged() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    sleep(seconds(1)).await;

    fs::write(&path, "new").expect("it can be written");
    running.is_quiet_for(crate::base::files::POLL_INTERVAL).await;
    let file = fs::File::options().append(true).open(&path).expect("it can be opened");
    file.set_modified(std::time::UNIX_EPOCH).expect("it can be touched");
    running.is_quiet_for(seconds(4)).await;
    running.uses("new").await.grant(LIFETIME);
}

#[tokio::test(start_paused = true)]
async fn refused_new_secret_leaves_the_old_token_in_service_until_another_works() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    let old = running.generation();

    fs::write(&path, "wrong").expect("it can be written");
    running.uses("wrong").await.fail(CredentialErrorKind::Rejected);
    for _ in 0..20 {
        let request = running.request().await;
        assert_eq!((request.secret.as_str(), running.generation()), ("wrong", old));
        request.fail(CredentialErrorKind::Rejected);
    }
    // The right secret is tried at once, even during a long pause.
    fs::write(&path, "right").expect("it can be written");
    let written = clock::now();
    loop {
        let request = running.request().await;
        if request.secret == "right" {
            assert!(request.at - written <= PICKED_UP);
            request.fail(CredentialErrorKind::Unreachable);
            break;
        }
        request.fail(CredentialErrorKind::Rejected);
    }
    // The backoff starts again with the new secret.
    let failed = clock::now();
    let request = running.request().await;
    assert!(request.at - failed <= seconds(2) + Duration::from_millis(2));
    request.grant(LIFETIME);
    settle().await;
    assert!(running.generation() > old);
}

#[tokio::test(start_paused = true)]
async fn secret_that_changes_during_a_request_is_tried_after_it() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with(SecretSource::File(path.clone()));
    let request = running.request().await;
    fs::write(&path, "new").expect("it can be written");
    sleep(seconds(9)).await;
    request.fail(CredentialErrorKind::Rejected);
    let next = running.request().await;
    assert_eq!(next.secret, "new");
    next.grant(LIFETIME);
    assert!(running.credential.bearer(soon()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn missing_file_fails_calls_and_is_used_once_it_exists() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("secret");
    let mut running = Running::start_with(SecretSource::File(path.clone()));
    let (took, answer) = timed(running.credential.bearer(soon())).await;
    let error = answer.expect_err("there is no secret");
    assert_eq!(error.to_string(), "cannot read the client secret: no such file");
    assert_eq!(error.kind(), CredentialErrorKind::SecretUnreadable);
    assert!(took < seconds(1));
    let health = running.credential.health().current();
    assert!(matches!(health, CredentialHealth::Refused { had_token: false, .. }), "{health:?}");
    running.is_quiet_for(HOUR).await;
    // The cause is updated with each reading.
    fs::write(&path, "one\ntwo\n").expect("it can be written");
    running.is_quiet_for(seconds(10)).await;
    let error = running.credential.bearer(soon()).await.expect_err("there is no secret");
    assert!(error.cause().starts_with("the secret contains a line break"), "{error}");

    fs::write(&path, "there\n").expect("it can be written");
    let written = clock::now();
    let request = running.request().await;
    assert_eq!(request.secret, "there");
    assert!(request.at - written <= PICKED_UP);
    request.grant(LIFETIME);
    assert!(running.credential.bearer(soon()).await.is_ok());
}

/// The first token request waits for the secret, so this delays the start.
#[tokio::test(start_paused = true)]
async fn old_file_is_used_at_the_first_reading_and_a_recent_one_at_the_second() {
    for (age, wait) in [(seconds(5), Duration::ZERO), (seconds(1), Duration::from_millis(4))] {
        let directory = directory_with("secret", "there");
        let path = directory.path().join("secret");
        let start = clock::now();
        let written = WallClock::following_monotonic().now() - age;
        let file = fs::File::options().append(true).open(&path).expect("it can be opened");
        file.set_modified(written).expect("it can be touched");
        let mut running = Running::start_with(SecretSource::File(path));
        let waited = running.request().await.at - start;
        assert!(waited >= wait && waited <= wait + Duration::from_millis(2), "{age:?}: {waited:?}");
    }
}

/// The file is written in two steps while the gateway starts.
#[tokio::test(start_paused = true)]
async fn half_written_secret_is_not_used_at_start_either() {
    let directory = directory_with("secret", "half");
    let path = directory.path().join("secret");
    let mut running = Running::start_with(SecretSource::File(path.clone()));
    running.is_quiet_for(Duration::from_millis(2)).await;
    fs::write(&path, "half and half").expect("it can be written");
    assert_eq!(running.request().await.secret, "half and half");
}

#[tokio::test(start_paused = true)]
async fn secret_is_kept_if_its_file_is_emptied_or_removed() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    fs::write(&path, "").expect("it can be written");
    sleep(seconds(20)).await;
    fs::remove_file(&path).expect("it can be removed");
    let renewal = running.request().await;
    assert_eq!(renewal.secret, "old");
    renewal.grant(LIFETIME);
}

#[tokio::test(start_paused = true)]
async fn touching_the_file_causes_no_token_request() {
    let directory = directory_with("secret", "old");
    let path = directory.path().join("secret");
    let mut running = Running::start_with_file(&path, "old").await;
    for _ in 0..10 {
        fs::write(&path, "old\n").expect("it can be written");
        running.is_quiet_for(seconds(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fixed_secret_is_used_unchanged() {
    let mut running = Running::start_with(SecretSource::Fixed(secret(" s\u{e9}cret ")));
    assert_eq!(running.request().await.secret, " s\u{e9}cret ");
}

#[tokio::test(start_paused = true)]
async fn exposed_or_suspicious_new_secret_causes_a_warning() {
    let log = CapturedLog::start();
    let warnings = || -> Vec<String> {
        let text = log.text();
        text.lines().filter(|line| line.contains(" WARN ")).map(str::to_owned).collect()
    };
    let directory = directory_with("secret", "old\n");
    let path = directory.path().join("secret");
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set(&path, 0o640).expect("its mode can be set");
    let mut running = Running::start_with_file(&path, "old").await;
    sleep(seconds(20)).await;
    assert_eq!(warnings(), [""; 0]);

    for (number, (secret, mode, expected)) in [
        ("new", 0o644, "client secret file is readable by every user"),
        ("another", 0o600, ""),
        ("\"quoted\"", 0o600, "quotation mark"),
        (" space", 0o600, "whitespace"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = warnings().len();
        let next = directory.path().join(format!("next-{number}"));
        fs::write(&next, secret).expect("it can be written");
        set(&next, mode).expect("its mode can be set");
        fs::rename(&next, &path).expect("it can be renamed");
        running.uses(secret).await.grant(LIFETIME);
        // After more polls: each version causes one warning.
        sleep(seconds(20)).await;
        running.token_works().await;
        let new = warnings().split_off(before);
        assert_eq!(new.len(), usize::from(!expected.is_empty()), "{secret}: {new:?}");
        for line in new {
            assert!(line.contains(expected) && line.contains("eu2"), "{line}");
            assert!(line.contains(&path.display().to_string()) && !line.contains("quoted"), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_secret_is_logged_once_with_a_level_by_its_effect() {
    let log = CapturedLog::start();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("secret");
    let lines = |level: &str, words: &str| {
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains(level) && line.contains(words));
        lines.filter(|line| line.contains(&path.display().to_string())).count()
    };
    let mut running = Running::start_with(SecretSource::File(path.clone()));
    sleep(seconds(20)).await;
    assert_eq!(lines("ERROR", "cannot read client secret"), 1, "{}", log.text());

    fs::write(&path, "first").expect("it can be written");
    running.request().await.grant(LIFETIME);
    running.token_works().await;
    fs::remove_file(&path).expect("it can be removed");
    sleep(seconds(20)).await;
    let still_served = "cannot read new client secret, keeping the current one";
    assert_eq!(lines("WARN", still_served), 1, "{}", log.text());
    fs::write(&path, "").expect("it can be written");
    sleep(seconds(20)).await;
    assert_eq!(lines("WARN", still_served), 2, "for another reason: {}", log.text());
    assert_eq!(lines("ERROR", ""), 1);

    assert!(!log.text().contains("new client secret read"), "{}", log.text());
    fs::write(&path, "second").expect("it can be written");
    running.uses("second").await.grant(LIFETIME);
    assert_eq!(log.text().matches("new client secret read").count(), 1, "{}", log.text());
}
