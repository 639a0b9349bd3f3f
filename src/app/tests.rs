//! What the parts report to each other.

use super::*;
use crate::credential::CredentialErrorKind;

/// A replica whose only API client has this credential.
async fn replica(credential: Credential) -> Health {
    let health = Health::new();
    let condition = health.credential("eu2");
    tokio::spawn(follow_credential(credential, condition));
    // Until the first token request has ended.
    tokio::time::sleep(Duration::from_millis(10)).await;
    health
}

/// Another replica could not reach the platform either.
#[tokio::test(start_paused = true)]
async fn a_platform_that_fails_for_an_hour_takes_no_replica_out_of_service() {
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
async fn a_refused_credential_takes_a_replica_out_of_service() {
    for kind in [CredentialErrorKind::Rejected, CredentialErrorKind::SecretUnreadable] {
        let never_worked = replica(Credential::failing_for_test(kind)).await;
        assert!(!never_worked.is_serving(), "{kind:?}: at once, as it was never ready");

        let worked_once = replica(Credential::lapsing_for_test(kind)).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(worked_once.is_serving(), "{kind:?}: not at once, as a secret may be rotated");
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(worked_once.why_not(), [crate::health::WhyNot::CredentialsRefused], "{kind:?}");
    }
}
