use super::*;
use crate::base::clock;
use crate::sandbox::FaultPlan;

/// Returns requests that fail with this fault: at issuing, and at the login.
async fn fail(sandbox: &Sandbox, kind: &str) -> [Request; 2] {
    let bearer = access_token(sandbox).await;
    let issue =
        Request::post("/api/2/idp/ott").bearer(&bearer).json(&for_login(&format!("fault+{kind}@sandbox")));
    let ott = one_time_token(sandbox, &format!("login-fault+{kind}@sandbox")).await;
    let body = serde_json::json!({ "ott": ott }).to_string();
    [issue, Request::post("/api/2/idp/ott/login").json(&body)]
}

/// Checks that the sandbox works after a fault.
async fn assert_works(sandbox: &Sandbox) {
    let ott = one_time_token(sandbox, JOHN).await;
    assert_eq!(log_in(sandbox, &ott).await.status, 200);
}

#[tokio::test]
async fn a_status_has_its_own_code_or_the_requested_one() {
    let sandbox = sandbox().await;
    for (kind, expected) in [
        ("503", (503, 503)),
        ("500", (500, 500)),
        ("401", (401, 401)),
        ("400-1018", (400, 1018)),
        ("409-1004", (409, 1004)),
        ("403-1002", (403, 1002)),
    ] {
        for request in fail(&sandbox, kind).await {
            // A refusal does not spend the token, so the same request fails again.
            assert_eq!(request.send(&sandbox).await.error(), expected, "{kind}");
            assert_eq!(request.send(&sandbox).await.error(), expected, "{kind}");
        }
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn a_429_has_retry_after() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "429").await {
        let answer = request.send(&sandbox).await;
        assert_eq!(answer.error(), (429, 429));
        assert_eq!(answer.header("retry-after"), Some("7"));
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn html_is_a_page_with_a_200() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "html").await {
        let answer = request.send(&sandbox).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(answer.text().starts_with("<!DOCTYPE html>"));
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn malformed_is_invalid_json_with_a_200() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "malformed").await {
        let answer = request.send(&sandbox).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn cut_sends_the_full_content_length_and_half_the_body() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "cut").await {
        let (read, _) = request.send_raw(sandbox.local_addr()).await;
        let answer = Answer::parse(&read);
        assert_eq!(answer.status, 200);
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(answer.body.len(), length / 2);
        assert!(answer.body.starts_with(b"{"));
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn reset_resets_the_connection_without_a_response() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "reset").await {
        let (read, end) = request.send_raw(sandbox.local_addr()).await;
        assert_eq!(read.len(), 0);
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn slow_delays_a_valid_response_by_five_seconds() {
    let sandbox = sandbox().await;
    let [issue, login] = fail(&sandbox, "slow").await;
    let started = clock::now();
    let (issued, logged_in) = tokio::join!(issue.send(&sandbox), login.send(&sandbox));
    let took = started.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(log_in(&sandbox, issued.json()["ott"].as_str().unwrap()).await.status, 200);
    assert_eq!(logged_in.json()["login"], "login-fault+slow@sandbox");
    let me = Request::get("/api/2/users/me").header("Cookie", &logged_in.cookie_header());
    assert_eq!(me.send(&sandbox).await.status, 200);
}

#[tokio::test]
async fn huge_is_a_valid_response_of_sixteen_mebibytes() {
    let sandbox = sandbox().await;
    for request in fail(&sandbox, "huge").await {
        let answer = request.send(&sandbox).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, None));
        assert!(answer.body.len() > 16 * 1024 * 1024);
        let end = answer.body.iter().rposition(|byte| *byte != b' ').unwrap();
        assert_eq!(answer.body[end], b'}');
        assert!(answer.json()["ott"].is_string());
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn redirect_points_to_another_host() {
    let sandbox = sandbox().await;
    for (kind, status) in [("redirect", 302), ("307", 307)] {
        for request in fail(&sandbox, kind).await {
            let answer = request.send(&sandbox).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("location"), Some("http://elsewhere.invalid/"));
        }
    }
    assert_works(&sandbox).await;
}

#[tokio::test]
async fn a_fault_in_the_response_of_a_login_spends_the_token() {
    let sandbox = sandbox().await;
    for kind in ["html", "malformed", "cut", "reset", "huge"] {
        let [_, login] = fail(&sandbox, kind).await;
        let _ = login.send_raw(sandbox.local_addr()).await;
        assert_eq!(login.send(&sandbox).await.error(), (401, 401), "{kind}");
    }
}

#[tokio::test]
async fn unknown_faults_are_refused_with_the_list() {
    let sandbox = sandbox().await;
    for login in ["fault+nothing@sandbox", "login-fault+200@sandbox"] {
        let answer = issue(&sandbox, &for_login(login)).await;
        assert_eq!(answer.error(), (400, 400));
        assert!(answer.text().contains("redirect"), "{}", answer.text());
    }
    let no_token = Request::post("/api/2/idp/ott").json(&for_login("fault+503@sandbox"));
    assert_eq!(no_token.send(&sandbox).await.error(), (401, 401));
}

#[tokio::test]
async fn a_plan_fails_every_nth_request_except_the_pages() {
    let faults: FaultPlan = "503/3".parse().unwrap();
    let sandbox = start(Settings { faults, ..settings() }).await.unwrap();
    let me = Request::get("/api/2/users/me");
    let token = Request::post("/api/2/idp/token")
        .basic("sandbox", "sandbox-secret")
        .form("grant_type=client_credentials");
    let mut met = Vec::new();
    for turn in 1..=9 {
        let request = if turn % 2 == 0 { &me } else { &token };
        met.push(request.send(&sandbox).await.status == 503);
        assert_eq!(Request::get("/mc/").send(&sandbox).await.status, 200);
        assert_eq!(Request::get("/api/2/idp/external-login").send(&sandbox).await.status, 200);
    }
    assert_eq!(met, [false, false, true, false, false, true, false, false, true]);
}

#[tokio::test]
async fn a_plan_can_reset_connections() {
    let faults: FaultPlan = "reset/2".parse().unwrap();
    let sandbox = start(Settings { faults, ..settings() }).await.unwrap();
    let me = Request::get("/api/2/users/me");
    assert_eq!(me.send(&sandbox).await.status, 401);
    let (read, end) = me.send_raw(sandbox.local_addr()).await;
    assert_eq!((read.len(), end.unwrap_err().kind()), (0, std::io::ErrorKind::ConnectionReset));
    assert_eq!(me.send(&sandbox).await.status, 401);
}

#[tokio::test]
async fn cut_drops_a_response_without_a_body() {
    // Token, one-time token, login; the fourth request is the logout.
    let faults: FaultPlan = "cut/4".parse().unwrap();
    let sandbox = start(Settings { faults, ..settings() }).await.unwrap();
    let cookies = session(&sandbox, JOHN).await;
    let logout = Request::get("/api/2/idp/logout").header("Cookie", &cookies);
    let (read, end) = logout.send_raw(sandbox.local_addr()).await;
    assert_eq!((read.len(), end.is_err()), (0, true));
    // The logout was processed.
    assert_eq!(logout.send(&sandbox).await.error(), (401, 401));
}
