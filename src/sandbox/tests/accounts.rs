use std::path::Path;

use serde_json::Value;

use super::*;
use crate::sandbox::accounts::file::{Problem, parse};
use crate::sandbox::{Accounts, AccountsError};

/// Returns the first error.
fn fault(text: &str) -> (usize, String, Problem) {
    match parse(Path::new("accounts.json"), text) {
        Err(AccountsError::Fields(mut errors)) => {
            let error = errors.remove(0);
            (error.line, error.field, error.problem)
        }
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

#[tokio::test]
async fn built_in_accounts_are_returned_verbatim() {
    let sandbox = sandbox().await;
    let file: Value = serde_json::from_str(include_str!("../accounts/built_in.json")).unwrap();
    let mut logged_in = 0;
    for user in file["users"].as_array().unwrap() {
        let login = user["login"].as_str().unwrap();
        let issued = issue(&sandbox, &for_login(login)).await;
        if issued.status == 200 {
            let answer = log_in(&sandbox, issued.json()["ott"].as_str().unwrap()).await;
            assert_eq!(answer.json(), *user);
            logged_in += 1;
        }
    }
    assert_eq!(logged_in, 4);
}

#[tokio::test]
async fn an_accounts_file_without_api_clients_has_the_default_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.json");
    let text = r#"{"tenants": [{"id": "t", "name": "T"}],
        "users": [{"id": "u", "login": "ada", "tenant_id": "t", "odd":   [1.50, null]}]}"#;
    std::fs::write(&path, text).unwrap();
    let sandbox =
        start(Settings { accounts: Accounts::from_file(&path).unwrap(), ..settings() }).await.unwrap();
    let ott = one_time_token(&sandbox, "ada").await;
    let answer = log_in(&sandbox, &ott).await;
    assert_eq!(answer.text(), r#"{"id": "u", "login": "ada", "tenant_id": "t", "odd":   [1.50, null]}"#);
}

#[test]
fn missing_and_malformed_files_are_reported_with_path_and_line() {
    let missing = Accounts::from_file(Path::new("/nowhere/accounts.json")).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/accounts.json: cannot be read: "), "{missing}");
    let broken = parse(Path::new("accounts.json"), "{\n\n\"tenants\": nonsense}").unwrap_err();
    assert!(broken.to_string().starts_with("accounts.json:3: not valid JSON: "), "{broken}");
}

#[test]
fn an_error_contains_file_line_and_field() {
    let text = "{\"tenants\": [\n  {\"id\": \"t\",\n   \"name\": 5}]}";
    let error = parse(Path::new("accounts.json"), text).unwrap_err();
    assert_eq!(error.to_string(), "accounts.json:3: tenants[1].name: must be text");
}

#[test]
fn every_kind_of_error_is_reported() {
    let tenant = r#"{"id": "t", "name": "T"}"#;
    let with_users = |users: &str| format!("{{\"tenants\": [{tenant}],\n\"users\": [{users}]}}");
    let twice = |text: &str| Problem::Twice(text.to_owned());
    for (text, line, field, problem) in [
        ("[]".to_owned(), 1, "the file", Problem::Type("an object")),
        ("{}".to_owned(), 1, "tenants", Problem::Empty),
        (r#"{"tenants": {}}"#.to_owned(), 1, "tenants", Problem::Type("an array of objects")),
        ("{\"tenants\": [\n5]}".to_owned(), 2, "tenants[1]", Problem::Type("an object")),
        (
            format!("{{\"tenants\": [{tenant}],\n\"user\": []}}"),
            2,
            "user",
            Problem::Unknown { nearest: Some("users"), known: &["tenants", "api_clients", "users"] },
        ),
        (
            r#"{"tenants": [{"id": "t", "name": "T", "suport_access": false}]}"#.to_owned(),
            1,
            "tenants[1].suport_access",
            Problem::Unknown {
                nearest: Some("support_access"),
                known: &["id", "name", "parent_id", "kind", "enabled", "locked", "support_access"],
            },
        ),
        (
            r#"{"tenants": [{"id": "t", "name": "T", "enabled": "no"}]}"#.to_owned(),
            1,
            "tenants[1].enabled",
            Problem::Type("true or false"),
        ),
        (format!("{{\"tenants\": [{tenant},\n{tenant}]}}"), 2, "tenants[2].id", twice("t")),
        (
            r#"{"tenants": [{"id": "t", "name": "T", "parent_id": "u"}]}"#.to_owned(),
            1,
            "tenants[1].parent_id",
            Problem::NoSuchTenant("u".to_owned()),
        ),
        (
            r#"{"tenants": [{"id": "a", "name": "A", "parent_id": "b"}, {"id": "b", "name": "B", "parent_id": "a"}]}"#
                .to_owned(),
            1,
            "tenants[1].parent_id",
            Problem::Cycle,
        ),
        (
            "{\"tenants\": [{\"id\": \"a\", \"name\": \"A\", \"parent_id\": \"b\"},\n\
             {\"id\": \"b\", \"name\": \"B\", \"parent_id\": \"b\"}]}"
                .to_owned(),
            2,
            "tenants[2].parent_id",
            Problem::Cycle,
        ),
        (with_users(r#"{"login": "a", "tenant_id": "t"}"#), 2, "users[1].id", Problem::Missing),
        (with_users(r#"{"id": "", "login": "a", "tenant_id": "t"}"#), 2, "users[1].id", Problem::Empty),
        (
            with_users("{\"id\": \"u\", \"login\": \"a\",\n\"tenant_id\": \"x\"}"),
            3,
            "users[1].tenant_id",
            Problem::NoSuchTenant("x".to_owned()),
        ),
        (
            with_users(
                "{\"id\": \"u\", \"login\": \"a\", \"tenant_id\": \"t\"},\n\
                 {\"id\": \"v\", \"login\": \"A\", \"tenant_id\": \"t\"}",
            ),
            3,
            "users[2].login",
            twice("A"),
        ),
        (
            format!("{{\"tenants\": [{tenant}], \"api_clients\": [{{\"client_id\": \"c\", \"tenant_id\": \"t\"}}]}}"),
            1,
            "api_clients[1].client_secret",
            Problem::Missing,
        ),
    ] {
        assert_eq!(fault(&text), (line, field.to_owned(), problem), "{text}");
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = r#"{"tenants": [{"id": "t", "nme": "T"}],
        "users": [{"id": "u", "login": 5, "tenant_id": "x"},
            {"id": "u", "login": "b", "tenant_id": "t", "enabled": "no"},
            7],
        "user": []}"#;
    let error = parse(Path::new("accounts.json"), text).unwrap_err().to_string();
    assert_eq!(
        error.lines().collect::<Vec<_>>(),
        [
            "accounts.json:1: tenants[1].nme: is not known; did you mean `name`?; the known ones are id, name, \
             parent_id, kind, enabled, locked, support_access",
            "accounts.json:1: tenants[1].name: is missing",
            "accounts.json:2: users[1].login: must be text",
            "accounts.json:2: users[1].tenant_id: no tenant has the id \"x\"",
            "accounts.json:3: users[2].id: \"u\" is used twice",
            "accounts.json:3: users[2].enabled: must be true or false",
            "accounts.json:4: users[3]: must be an object",
            "accounts.json:5: user: is not known; did you mean `users`?; the known ones are tenants, api_clients, users",
        ],
        "{error}"
    );
}

#[tokio::test]
async fn support_access_of_the_clients_own_tenant_does_not_matter() {
    let text = r#"{"tenants": [{"id": "t", "name": "T", "support_access": false}],
        "users": [{"id": "u", "login": "ada", "tenant_id": "t"}]}"#;
    let accounts = parse(Path::new("accounts.json"), text).unwrap();
    let sandbox = start(Settings { accounts, ..settings() }).await.unwrap();
    assert_eq!(issue(&sandbox, &for_login("ada")).await.status, 200);
}
