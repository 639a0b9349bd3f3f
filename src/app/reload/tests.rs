use std::fs;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::{
    access::Settings,
    base::files::POLL_INTERVAL,
    caller::{Caller, Proof, TokenHashes},
    observe::telemetry::logging::captured::CapturedLog,
};

/// A configuration file and its follower.
struct Followed {
    folder: TempDir,
    access: Access,
    metrics: Metrics,
    trigger: Trigger,
    _task: AbortOnDropHandle<()>,
}

fn config_for(callers: &[&str]) -> String {
    let mut text = "[api_clients.eu2]\ndata_center_url = \"https://eu2.example\"\nclient_id = \"id\"\n\
                    client_secret_file = \"secret\"\n"
        .to_owned();
    for caller in callers {
        text.extend(["[[access.rules]]\ncallers = [\"", caller, "\"]\nusers = \"all\"\n"]);
    }
    text
}

impl Followed {
    /// Loads a configuration for those callers, then replaces it with `at_start`, if given, and
    /// follows the file.
    fn start(callers: &[&str], at_start: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let file = folder.path().join("gateway.toml");
        fs::write(&file, config_for(callers)).unwrap();
        let config = Config::load(Some(&file), &Process).unwrap();
        if let Some(changed) = at_start {
            fs::write(&file, changed).unwrap();
        }
        let metrics = Metrics::new();
        let policy = policy(&config.access, &config.callers.tokens).unwrap();
        let access = Access::new(policy, metrics.clone());
        let (mut reload, trigger) = Reload::new(config, access.clone(), Audit::off(), metrics.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { drop(reload.run().await) }));
        Self { folder, access, metrics, trigger, _task: task }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Replaces the file atomically: a concurrent poll reads either the old or the new contents.
    fn put(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn allows(&self, caller: &str) -> bool {
        let caller = Caller::for_test(caller, Proof::Certificate);
        self.access.mentions(&self.access.policy(), &caller).is_ok()
    }

    /// Returns the number of accepted and of rejected versions, and whether the newest is rejected.
    fn counts(&self) -> [i64; 3] {
        let shown = self.metrics.render();
        let value = |name: &str| {
            let line = shown.lines().find_map(|line| line.strip_prefix(name));
            line.expect(name).trim().parse::<i64>().unwrap()
        };
        [
            value(r#"ott_gateway_reloads_total{result="ok",what="rules"}"#),
            value(r#"ott_gateway_reloads_total{result="failed",what="rules"}"#),
            value(r#"ott_gateway_reload_failing{what="rules"}"#),
        ]
    }
}

/// Time after which a change takes effect (`docs/configuration.md`).
const IN_FORCE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn file_that_is_being_written_is_not_taken_over() {
    let followed = Followed::start(&["dns:a"], None);
    let whole = config_for(&["dns:b", "dns:c"]);
    let half = config_for(&["dns:b"]);
    assert!(whole.starts_with(&half), "the first half is a valid configuration too");
    sleep(POLL_INTERVAL / 2).await;
    followed.put(&half);
    sleep(POLL_INTERVAL).await;
    followed.put(&whole);
    sleep(IN_FORCE).await;
    assert!(followed.allows("dns:c") && !followed.allows("dns:a"));
    assert_eq!(followed.counts(), [1, 0, 0], "the half was never in force");

    // A SIGHUP in the middle of writing does not change this.
    followed.put(&half);
    followed.trigger.fire();
    sleep(Duration::from_millis(150)).await;
    followed.put(&config_for(&["dns:b", "dns:d"]));
    sleep(Duration::from_millis(900)).await;
    assert!(followed.allows("dns:d") && !followed.allows("dns:c"));
    assert_eq!(followed.counts(), [2, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn change_between_load_and_start_is_taken_over() {
    let followed = Followed::start(&["dns:a"], Some(&config_for(&["dns:b"])));
    sleep(IN_FORCE).await;
    assert!(followed.allows("dns:b") && !followed.allows("dns:a"));
    assert_eq!(followed.counts(), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn unchanged_file_is_not_a_reload() {
    let followed = Followed::start(&["dns:a"], None);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(followed.counts(), [0, 0, 0]);
    followed.trigger.fire();
    sleep(IN_FORCE).await;
    assert_eq!(followed.counts(), [1, 0, 0], "but a SIGHUP is");
}

#[tokio::test(start_paused = true)]
async fn file_with_a_comment_that_always_changes_is_taken_over() {
    let followed = Followed::start(&["dns:a"], None);
    for second in 0..30 {
        followed.put(&format!("# written at {second}\n{}", config_for(&["dns:a"])));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(followed.counts(), [0, 0, 0], "a comment is not a change");
    for second in 0..10 {
        followed.put(&format!("# written at {second}\n{}", config_for(&["dns:b"])));
        sleep(Duration::from_secs(1)).await;
    }
    assert!(followed.allows("dns:b") && !followed.allows("dns:a"));
    assert_eq!(followed.counts(), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn another_section_that_always_changes_does_not_prevent_a_revocation() {
    let followed = Followed::start(&["dns:a", "dns:b"], None);
    let write_every_second = async |callers: &[&str], seconds: u64| {
        for second in 0..seconds {
            followed.put(&format!("{}[telemetry]\nservice_instance = \"{second}\"\n", config_for(callers)));
            sleep(Duration::from_secs(1)).await;
        }
    };
    write_every_second(&["dns:a", "dns:b"], 30).await;
    assert_eq!(followed.counts(), [0, 0, 0], "the reloadable part has not changed");
    write_every_second(&["dns:b"], IN_FORCE.as_secs()).await;
    assert!(followed.allows("dns:b") && !followed.allows("dns:a"));
    assert_eq!(followed.counts(), [1, 0, 0]);
    write_every_second(&["dns:b"], 30).await;
    assert_eq!(followed.counts(), [1, 0, 0], "once for one change of the rules");
    sleep(IN_FORCE).await;
    assert_eq!(followed.counts(), [2, 0, 0], "the other section is checked when it has settled");
}

#[tokio::test(start_paused = true)]
async fn change_that_requires_a_restart_is_logged_even_if_no_rule_has_changed() {
    let log = CapturedLog::start();
    let followed = Followed::start(&["dns:a"], None);
    let changed = format!("[admin]\nlisten = \"off\"\n{}", config_for(&["dns:a"]));
    followed.put(&changed);
    sleep(IN_FORCE).await;
    assert_eq!(log.text().matches("require a restart").count(), 1, "{}", log.text());
    sleep(Duration::from_mins(1)).await;
    assert_eq!((followed.counts(), log.text().matches("require a restart").count()), ([1, 0, 0], 1));
}

#[tokio::test(start_paused = true)]
async fn rejected_version_is_retried_until_one_is_in_force() {
    let followed = Followed::start(&["dns:a"], None);
    sleep(IN_FORCE).await;
    fs::remove_file(followed.file()).unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(followed.counts(), [0, 1, 1], "counted once, not at every poll");
    followed.put("[access]");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(followed.counts(), [0, 2, 1], "another version, and another rejection");
    assert!(followed.allows("dns:a"));

    followed.put(&config_for(&["dns:a"]));
    sleep(IN_FORCE).await;
    assert_eq!(followed.counts(), [0, 2, 0], "the file has the current version again");
    followed.put(&config_for(&["dns:b"]));
    sleep(IN_FORCE).await;
    assert!(followed.allows("dns:b") && !followed.allows("dns:a"));
    assert_eq!(followed.counts(), [1, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn errors_elsewhere_do_not_prevent_a_revocation() {
    let followed = Followed::start(&["dns:a", "dns:b"], None);
    sleep(IN_FORCE).await;
    let revoked = config_for(&["dns:b"]).replace("\"secret\"", "\"nothing\"");
    followed.put(&format!("{revoked}[audit]\nhmac_key_file = \"hmac-2026-12\"\n"));
    sleep(IN_FORCE).await;
    assert!(!followed.allows("dns:a") && followed.allows("dns:b"));
    assert_eq!(followed.counts(), [1, 0, 0]);
}

#[test]
fn file_that_has_not_changed_is_parsed_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let in_force =
        InForce::new(Arc::new(Reloadable { access: Settings::new(Vec::new()), tokens: TokenHashes::new() }));
    let parser = FileParser::new(path.clone(), FixedNames::default(), in_force.clone());
    let parsed = |text: &str| {
        fs::write(&path, text).unwrap();
        parser.parse(&files::read(&path, files::MAX_BYTES).unwrap())
    };
    let (one, other) = (config_for(&["dns:one"]), config_for(&["dns:other"]));
    let first = parsed(&one).unwrap();
    assert!(Arc::ptr_eq(&first, &parsed(&one).unwrap()));
    assert!(parsed("[[access.rules]]").is_err());
    assert!(Arc::ptr_eq(&first, &parsed(&one).unwrap()), "after an error");
    let second = parsed(&other).unwrap();
    assert_eq!(second.reloadable.access.rules[0].callers, ["dns:other"]);
    let again = parsed(&one).unwrap();
    assert!(again == first && again != second);

    // Once it is in force, it is not compared again; another version is.
    in_force.set(&again.reloadable);
    assert!(Arc::ptr_eq(&again, &parsed(&one).unwrap()));
    assert_eq!(again.differences_from(&in_force.get()), Some(RulesDifferences::NONE));
    let other = parsed(&other).unwrap();
    assert_eq!(other.differences_from(&in_force.get()), Some(other.differences));
    in_force.set(&second.reloadable);
    assert_eq!(other.differences_from(&in_force.get()), None, "compared with other rules");
}
