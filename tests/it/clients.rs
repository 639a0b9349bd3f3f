//! What `docs/clients.md` shows to clients in other languages.

use ott_gateway::proto::FILE_DESCRIPTOR_SET;
use prost_reflect::DescriptorPool;
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/clients.md");

/// The service config is applied by client libraries, which do not look at the error details. A login
/// must not be repeated without them.
#[test]
fn documented_service_config_retries_issue_ott_and_nothing_else() {
    let (_, rest) = PAGE.split_once("```json\n").expect("the page shows it");
    let (json, _) = rest.split_once("```").expect("the block ends");
    let config: Value = serde_json::from_str(json).expect("JSON");
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut named = Vec::new();
    for method_config in config["methodConfig"].as_array().expect("a list") {
        for name in method_config["name"].as_array().expect("a list") {
            let service = name["service"].as_str().expect("a service");
            let service = pool.get_service_by_name(service).expect("of the contract");
            // A name without a method would be for all methods of the service.
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

/// Each example accepts a reason of the gateway only.
#[test]
fn every_documented_example_checks_the_domain() {
    for language in ["go", "java", "csharp", "ruby", "cpp"] {
        let fence = format!("```{language}\n");
        let (_, example) = PAGE.split_once(&fence).expect("the page has an example");
        let (example, _) = example.split_once("```").expect("the block ends");
        assert!(example.contains("ErrorInfo") && example.contains("ott-gateway"), "{language}");
    }
}
