//! Effect of a flood of refused calls on allowed calls.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    process::Command,
};

use rustix::fs::OFlags;
use serde_json::Value;

use crate::support::{
    admin::Admin,
    calling::{issued, metric, until},
    gateway::Setup,
    upstream::{OTT, Upstream},
};

fn read_available(pipe: &mut File, text: &mut String) {
    let mut bytes = Vec::new();
    // Fails with `WouldBlock` once the pipe is empty.
    let _ = pipe.read_to_end(&mut bytes);
    text.push_str(std::str::from_utf8(&bytes).expect("text"));
}

/// The reader of the records pauses, as `kubectl logs` or a log shipper may. The pipe has room only
/// for the records of the allowed calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_calls_do_not_fill_the_sink_of_allowed_ones() {
    const FLOOD: u32 = 4000;
    let platform = Upstream::http().await;
    let token = "sha256:4ececb2d8ec1f9c6dbdf7cc0e409fa66eb0c1b49bd91b92508af8c1b89643364";
    let setup = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", "FOLDER/audit.pipe")
        .replacing("[audit]", &format!("[callers.tokens]\nlimited = \"{token}\"\n[audit]"));
    let path = setup.folder().join("audit.pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
    let mut pipe = OpenOptions::new().read(true).custom_flags(flags).open(&path).expect("it opens");
    let gateway = setup.start();

    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let channel = gateway.channel().await;
        flood.spawn(async move {
            for _ in 0..FLOOD / 16 {
                let answer = issued(&channel, &[("authorization", "Bearer wrong")]).await;
                assert_eq!(answer, "Unauthenticated CALLER_UNAUTHENTICATED");
            }
        });
    }
    let channel = gateway.channel().await;
    let mut allowed = 0;
    while !flood.is_empty() || allowed < 20 {
        assert_eq!(issued(&channel, &[]).await, "OK", "call {allowed} while the reader pauses");
        allowed += 1;
        if allowed > 20 {
            flood.join_next().await.transpose().expect("no caller fails");
        }
    }

    // After the pause, the record of each allowed call is there, and no record is late.
    let mut text = String::new();
    until("all records are written", async || {
        read_available(&mut pipe, &mut text);
        let mut pending = 0.0;
        for class in ["allowed", "refused"] {
            let name = format!(r#"ott_gateway_audit_records_pending{{class="{class}"}}"#);
            pending += metric(gateway.admin(), &name).await;
        }
        pending == 0.0
    })
    .await;
    read_available(&mut pipe, &mut text);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let good = lines.iter().filter(|line| line["code"] == "OK" && line.get("late").is_none()).count();
    assert_eq!((good, platform.count(OTT)), (allowed, allowed));
    let admin = Admin(gateway.admin());
    admin.wait_for(r#"ott_gateway_audit_records_lost_total{class="allowed"}"#, 0.0).await;
    admin.wait_for(r#"ott_gateway_audit_records_total{result="failed",sink="file"}"#, 0.0).await;
}
