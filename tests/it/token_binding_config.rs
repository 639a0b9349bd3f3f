//! The keys of sealed tokens as the real binary reads them: at start, in `check-config` and while it
//! runs.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{
    calling::{issue, metric, result_of, until},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

const OLD: &str = "2026-10 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const NEW: &str = "2026-11 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n";
/// The beginning of each key in these tests. No output contains one of them.
const SECRETS: [&str; 3] = ["AAECAwQF", "ICEiIyQl", "Y2FuYXJ5"];
const OK: &str = r#"ott_gateway_reloads_total{result="ok",what="token_keys"}"#;
const FAILED: &str = r#"ott_gateway_reloads_total{result="failed",what="token_keys"}"#;
const FAILING: &str = r#"ott_gateway_reload_failing{what="token_keys"}"#;

/// A gateway whose API client seals tokens with these keys.
fn sealing(platform: &Upstream, keys: &str) -> Setup {
    let setup = Setup::for_platform(platform.address())
        .replacing("client_id =", "bind_tokens = \"on\"\nclient_id =")
        .replacing("[audit]", "[token_binding]\nkeys_file = \"FOLDER/token.keys\"\n[audit]");
    setup.file("token.keys", keys);
    setup
}

/// Replaces the keys by a rename.
fn put(gateway: &Gateway, keys: &str) {
    let (new, path) = (gateway.folder().join("new.keys"), gateway.folder().join("token.keys"));
    fs::write(&new, keys).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its permissions");
    fs::rename(new, path).expect("renamed");
}

fn assert_no_key(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Waits until the gateway has logged that these keys are in use, `times` times in all.
async fn uses(gateway: &Gateway, sealing: &str, ids: &str, times: usize) {
    let fields = [format!("\"token_keys.sealing\":\"{sealing}\""), format!("\"token_keys.ids\":\"{ids}\"")];
    until(&format!("{ids} are in use"), async || {
        let log = gateway.stderr().text();
        let lines = log.lines().filter(|line| line.contains("token keys in use"));
        lines.filter(|line| fields.iter().all(|field| line.contains(field))).count() == times
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_in_two_processes_without_a_warning() {
    let platform = Upstream::http().await;
    let replicas = [sealing(&platform, OLD).start(), sealing(&platform, OLD).start()];
    for replica in &replicas {
        uses(replica, "2026-10", "2026-10", 1).await;
    }
    let steps = [
        (format!("{OLD}{NEW}"), "2026-10", "2026-10, 2026-11"),
        (format!("# both\n{NEW}{OLD}"), "2026-11", "2026-11, 2026-10"),
        (NEW.to_owned(), "2026-11", "2026-11"),
    ];
    for (keys, sealing, ids) in &steps {
        for replica in &replicas {
            put(replica, keys);
        }
        for replica in &replicas {
            uses(replica, sealing, ids, 1).await;
        }
    }
    for replica in &replicas {
        let admin = replica.admin();
        assert_eq!(metric(admin, OK).await.to_string(), "3");
        assert_eq!(metric(admin, FAILED).await.to_string(), "0");
        assert_eq!(metric(admin, r#"ott_gateway_duty_up{duty="token_keys"}"#).await.to_string(), "1");
        let log = replica.stderr().text();
        assert!(!log.contains("token key seals") && !log.contains("token key removed"), "{log}");
        assert_no_key(&log);
    }
    // Without a change, only a signal reloads the file.
    replicas[0].signal("HUP");
    uses(&replicas[0], "2026-11", "2026-11", 2).await;
    assert_eq!(metric(replicas[0].admin(), OK).await.to_string(), "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_without_a_step_is_logged() {
    let platform = Upstream::http().await;
    let gateway = sealing(&platform, OLD).start();
    put(&gateway, NEW);
    gateway.signal("HUP");
    for (warning, field) in [
        ("new token key seals before every replica can open", "\"token_keys.sealing\":\"2026-11\""),
        ("token key removed while its tokens were valid", "\"token_keys.removed\":\"2026-10\""),
    ] {
        gateway.stderr().wait_for(warning, |line| {
            (line.contains(warning) && line.contains(field) && line.contains("\"WARN\"")).then_some(())
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_cannot_be_used_are_refused_and_the_keys_stay() {
    let platform = Upstream::http().await;
    let gateway = sealing(&platform, OLD).start();
    let admin = gateway.admin();
    let path = gateway.folder().join("token.keys");
    let broken = [
        ("", "it contains no key"),
        ("2026-11 Y2FuYXJ5\n", "the key in line 1 has 6 bytes instead of 32"),
        ("2026-11 Y2FuYXJ5!\n", "the key in line 1 is not base64"),
        ("Y2FuYXJ5\n", "line 1 is not an id and a key"),
        ("2026-11 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "the key in line 1 is not random"),
    ];
    for ((keys, reason), number) in broken.into_iter().zip(1_u32..) {
        put(&gateway, keys);
        gateway.signal("HUP");
        gateway.stderr().wait_for(reason, |line| {
            let is_refusal = line.contains("new token keys refused, keeping the current ones");
            (is_refusal && line.contains(reason) && line.contains("\"ERROR\"")).then_some(())
        });
        until(reason, async || metric(admin, FAILED).await >= f64::from(number)).await;
        assert_eq!(metric(admin, FAILING).await.to_string(), "1");
        assert_eq!(result_of(&gateway.client().await.issue_ott(issue("anna")).await), "OK", "{reason}");
    }
    fs::remove_file(&path).expect("removed");
    gateway.signal("HUP");
    gateway.stderr().wait_for("the reason", |line| {
        (line.contains("new token keys refused") && line.contains("no such file")).then_some(())
    });
    uses(&gateway, "2026-10", "2026-10", 1).await;
    put(&gateway, &format!("{OLD}{NEW}"));
    uses(&gateway, "2026-10", "2026-10, 2026-11", 1).await;
    assert_eq!(metric(admin, FAILING).await.to_string(), "0");
    assert_no_key(&gateway.stderr().text());
}

/// What `check-config` and `serve` report about a key file. The start fails with the same text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_key_files_are_found_by_check_config_and_prevent_the_start() {
    let platform = Upstream::http().await;
    let repeated = format!("{OLD}2026-11{}", &OLD[7..]);
    for (keys, problem) in [
        (Some(""), "token_binding.keys_file: it contains no key"),
        (Some("2026-11 Y2FuYXJ5"), "token_binding.keys_file: the key in line 1 has 6 bytes instead of 32"),
        (Some(&*repeated), "token_binding.keys_file: lines 1 and 2 have the same key"),
        (None, "token.keys: no such file"),
    ] {
        let setup = sealing(&platform, OLD);
        let path = setup.folder().join("token.keys");
        match keys {
            Some(keys) => fs::write(&path, keys).expect("a file"),
            None => fs::remove_file(&path).expect("removed"),
        }
        setup.write_config();
        let checked = setup.run(&["check-config"]);
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        let report = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert_eq!(report.matches(problem).count(), 1, "{report}");
        let refused = setup.refused();
        let log = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && log.contains(problem), "{log}");
        assert_no_key(&report);
        assert_no_key(&log);
    }
    let setup = sealing(&platform, OLD);
    setup.write_config();
    let checked = setup.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert_eq!(result_of(&setup.start().client().await.issue_ott(issue("anna")).await), "OK");
}
