//! Limits and state that all workers of a replica share.
//!
//! New connections go to the worker with the fewest, so `WORKERS` connections use all workers.

use std::sync::Arc;

use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use crate::support::{
    calling::{issue, login, result_of},
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, OTT, TOKEN, Upstream},
};

const WORKERS: usize = 4;

/// A gateway with several workers, and a connection to each.
async fn start(setup: Setup) -> (Gateway, Vec<OttServiceClient<Channel>>) {
    let gateway = setup.replacing("[server]", &format!("[server]\nworker_threads = {WORKERS}")).start();
    let mut clients = Vec::new();
    for _ in 0..WORKERS {
        clients.push(gateway.client().await);
    }
    (gateway, clients)
}

#[tokio::test]
async fn token_being_spent_is_in_use_on_all_workers() {
    let platform = Upstream::http().await;
    let (_gateway, clients) = start(Setup::for_platform(platform.address())).await;
    let permits = Arc::new(Semaphore::new(0));
    let ott = platform.token();
    platform.next(LOGIN, Behaviour::Held(Arc::clone(&permits), Box::new(Behaviour::Healthy)));
    let (mut first, spending) = (clients[0].clone(), ott.clone());
    let first = tokio::spawn(async move { result_of(&first.login_with_ott(login(&spending)).await) });
    platform.wait_for(LOGIN, 1).await;
    for (number, client) in clients.iter().enumerate() {
        let second = result_of(&client.clone().login_with_ott(login(&ott)).await);
        assert_eq!(second, "Aborted OTT_IN_USE", "connection {number}");
    }
    assert_eq!(platform.count(LOGIN), 1);
    permits.add_permits(1);
    assert_eq!(first.await.expect("no panic"), "OK");
    let spent = result_of(&clients[1].clone().login_with_ott(login(&ott)).await);
    assert_eq!((spent.as_str(), platform.count(LOGIN)), ("Unauthenticated OTT_REJECTED", 2));
}

#[tokio::test]
async fn quotas_are_counted_over_all_workers() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address())
        .replacing("rate = \"unlimited\"\n", "rate = \"1/h\"\nburst = 3\n")
        .replacing("user_rate = \"1/h\"\nburst = 3\n", "user_rate = \"unlimited\"\n");
    let (_gateway, clients) = start(setup).await;
    let mut answers = Vec::new();
    for client in &clients {
        answers.push(result_of(&client.clone().issue_ott(issue("someone@example.com")).await));
    }
    assert_eq!(answers, ["OK", "OK", "OK", "ResourceExhausted CALLER_QUOTA_EXCEEDED"]);
    assert_eq!(platform.count(OTT), 3);
}

#[tokio::test]
async fn access_tokens_and_breakers_are_shared_by_all_workers() {
    let platform = Upstream::http().await;
    let (_gateway, clients) = start(Setup::for_platform(platform.address())).await;
    for client in &clients {
        assert_eq!(result_of(&client.clone().issue_ott(issue("someone@example.com")).await), "OK");
    }
    assert_eq!((platform.count(OTT), platform.count(TOKEN)), (WORKERS, 1));

    // Enough failures to open a shared breaker, but not one per worker.
    platform.always(LOGIN, Answer::empty(503));
    for number in 0..20 {
        let failed = result_of(&clients[number % WORKERS].clone().login_with_ott(login("OTT")).await);
        assert_eq!(failed, "Aborted LOGIN_OUTCOME_UNKNOWN");
    }
    for client in &clients {
        let refused = result_of(&client.clone().login_with_ott(login("OTT")).await);
        assert_eq!(refused, "Unavailable PLATFORM_UNAVAILABLE");
    }
    assert_eq!(platform.count(LOGIN), 20);
}
