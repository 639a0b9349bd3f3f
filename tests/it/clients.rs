//! Examples of `docs/clients.md`.

use ott_gateway::proto::FILE_DESCRIPTOR_SET;
use prost_reflect::DescriptorPool;
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/clients.md");

/// Client libraries apply the service config without checking the error details, so it must not cover
/// logins.
#[test]
fn documented_service_config_retries_only_issue_ott() {
    let (_, rest) = PAGE.split_once("```json\n").expect("the page has a service config");
    let (json, _) = rest.split_once("```").expect("the block ends");
    let config: Value = serde_json::from_str(json).expect("JSON");
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut named = Vec::new();
    for method_config in config["methodConfig"].as_array().expect("a list") {
        for name in method_config["name"].as_array().expect("a list") {
            let service = name["service"].as_str().expect("a service");
            let service = pool.get_service_by_name(service).expect("of the contract");
            // A name without a method would apply to all methods of the service.
            let method = name["method"].as_str().expect("a method");
            assert!(service.methods().any(|one| one.name() == method), "{method}");
            named.push(method.to_owned());
        }
        let policy = &method_config["retryPolicy"];
        assert_eq!(policy["retryableStatusCodes"], serde_json::json!(["UNAVAILABLE"]));
        let attempts = policy["maxAttempts"].as_u64().expect("a number");
        assert!((2..=5).contains(&attempts), "gRPC allows at most five");
    }
    assert_eq!(named, ["IssueOtt"]);
}

#[test]
fn every_documented_example_checks_the_domain() {
    for language in ["go", "java", "csharp", "ruby", "cpp"] {
        let fence = format!("```{language}\n");
        let (_, example) = PAGE.split_once(&fence).expect("the page has an example");
        let (example, _) = example.split_once("```").expect("the block ends");
        assert!(example.contains("ErrorInfo") && example.contains("ott-gateway"), "{language}");
    }
}
