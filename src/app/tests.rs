//! Interaction of the parts.

use super::{duties::follow_credential, *};
use crate::{base::secret::client_secret::ClientSecret, config::Process, credential::CredentialErrorKind};

/// Returns the health of a replica whose only API client has this credential.
async fn replica(credential: Credential) -> Health {
    let health = Health::new();
    let condition = health.credential("eu2");
    tokio::spawn(async move { follow_credential(&credential, &condition).await });
    // Wait until the first token request has completed.
    tokio::time::sleep(Duration::from_millis(10)).await;
    health
}

/// Other replicas could not reach the platform either.
#[tokio::test(start_paused = true)]
async fn platform_outage_of_an_hour_takes_no_replica_out_of_service() {
    for kind in [
        CredentialErrorKind::Failing,
        CredentialErrorKind::Unreachable,
        CredentialErrorKind::CertificateInvalid,
        CredentialErrorKind::Blocked,
        CredentialErrorKind::Protocol { status: 404 },
    ] {
        let never_worked = replica(Credential::failing_for_test(kind)).await;
        let worked_once = replica(Credential::lapsing_for_test(kind)).await;
        for minute in 0..60 {
            for health in [&never_worked, &worked_once] {
                assert_eq!(health.why_not(), [], "{kind:?} for {minute} min");
            }
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credential_takes_a_replica_out_of_service() {
    for kind in [CredentialErrorKind::Rejected, CredentialErrorKind::SecretUnreadable] {
        let never_worked = replica(Credential::failing_for_test(kind)).await;
        assert!(!never_worked.is_serving(), "{kind:?}: at once, because it was never ready");

        let worked_once = replica(Credential::lapsing_for_test(kind)).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(worked_once.is_serving(), "{kind:?}: not at once, because a secret may be rotated");
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(
            worked_once.why_not(),
            [crate::observe::health::NotServing::CredentialsRefused],
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn failure_to_start_is_the_last_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let secret = ClientSecret::parse(b"secret").unwrap();
    let (platform, listen) = ("http://127.0.0.1:9".parse().unwrap(), ([127, 0, 0, 1], 0).into());
    let mut config = Config::sandbox(&platform, listen, secret, &Process).unwrap();
    config.audit = audit::Settings::new(audit::Sink::File(path.clone()));
    // Never the result of reading a file, which is checked.
    config.access.rules.clear();
    Box::pin(App::start(config)).await.unwrap_err();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["event"], "started");
    assert_eq!((&lines[1]["event"], &lines[1]["cause"]), (&"stopped".into(), &"start_failed".into()));
}

/// Child process of the next test, because signal handlers cannot be removed.
#[tokio::test]
#[ignore = "run by another test, in a separate process"]
async fn child_with_a_thread_that_dies() {
    let secret = ClientSecret::parse(b"secret").unwrap();
    let (platform, listen) = ("http://127.0.0.1:9".parse().unwrap(), ([127, 0, 0, 1], 0).into());
    let config = Config::sandbox(&platform, listen, secret, &Process).unwrap();
    let signals = Signals::listen(OnHangUp::Refresh).unwrap();
    let app = Box::pin(App::start(config)).await.unwrap();
    drop(app.metrics().threads().register("worker-7"));
    assert_eq!(signals.serve(app).await, Shutdown::ThreadLost("worker-7".into()));
}

#[test]
fn gateway_stops_when_a_thread_dies() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "app::tests::child_with_a_thread_that_dies", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
