//! A machine that starts no more threads, as at a limit of processes.

use std::{fs, path::PathBuf, process::Command};

use ott_gateway::base::clock;

use crate::support::{
    admin::Admin,
    calling::{issue, result_of},
    gateway::{Gateway, PATIENCE, Setup},
    upstream::Upstream,
};

/// More threads than the gateway needs to start and serve its first call.
const ENOUGH: usize = 14;

/// Limits the number of threads that a gateway can start, until the returned file is removed.
fn limited(setup: Setup, allowed: usize) -> (Setup, PathBuf) {
    let folder = fs::canonicalize(setup.folder()).expect("the test's folder");
    let (library, limited) = (folder.join("threads.so"), folder.join("limited"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/threads.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().expect("cc");
    assert!(compiled.status.success(), "{compiled:?}");
    fs::write(&limited, "").expect("a writable folder");
    let setup = setup
        .replacing("[server]", "[server]\nworker_threads = 2")
        .environment("LD_PRELOAD", &library.display().to_string())
        .environment("OTT_TEST_THREADS_LIMITED", &limited.display().to_string())
        .environment("OTT_TEST_THREADS_ALLOWED", &allowed.to_string());
    (setup, limited)
}

/// Waits until a call succeeds.
async fn serves(gateway: &Gateway) {
    let until = clock::now() + PATIENCE;
    let mut client = gateway.client().await;
    loop {
        let answer = result_of(&client.issue_ott(issue("someone@example.com")).await);
        if answer == "OK" {
            return;
        }
        assert!(clock::now() < until, "{answer}\n{}", gateway.stderr().text());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_without_threads_stops_with_the_cause_or_recovers() {
    let upstream = Upstream::http().await;
    let (mut ended, mut recovered) = (0, 0);
    for allowed in 0..ENOUGH {
        let (setup, limited) = limited(Setup::for_platform(upstream.address()), allowed);
        match setup.try_start() {
            Err((status, log)) => {
                assert_eq!(status.code(), Some(1), "{allowed} threads: {status}\n{log}");
                let last = log.lines().last().unwrap_or_default();
                assert!(last.contains("cannot start"), "{allowed} threads\n{log}");
                ended += 1;
            }
            Ok(gateway) => {
                fs::remove_file(limited).expect("a removable file");
                serves(&gateway).await;
                assert_eq!(Admin(gateway.admin()).page("/livez"), (200, "ok\n".to_owned()));
                recovered += 1;
            }
        }
    }
    // At least the log, audit, admin and two worker threads are required.
    assert!(ended >= 5 && recovered >= 1, "{ended} ended, {recovered} recovered");
}
