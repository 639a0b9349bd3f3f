//! Each event is one complete, printable and bounded line, for any values.

use proptest::prelude::*;

use super::*;
use crate::{base::text::is_unprintable, observe::telemetry::logging::line::MAX_LINE_BYTES};

fn all_settings() -> Vec<Settings> {
    let formats = [Format::Json, Format::Text];
    let of =
        |format| [false, true].map(|has_priorities| Settings { has_priorities, ..settings(format, "trace") });
    formats.into_iter().flat_map(of).collect()
}

fn logged_with(settings: &Settings, work: impl FnOnce()) -> String {
    let memory = Memory::default();
    let written = memory.clone();
    let subscriber = subscriber(settings, move || written.clone(), Limiter::default());
    let _second = second_dispatcher();
    with_default(subscriber, work);
    memory.text()
}

/// Logs one event with `text` as a value of every kind.
fn log(text: &str) {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Shown(String);
    let error = Shown(text.to_owned());
    let error: &(dyn std::error::Error + 'static) = &error;
    tracing::warn!(
        a.string = text,
        display = %text,
        debug = ?text,
        error,
        number = -7,
        float = 1e300,
        infinite = f64::INFINITY,
        yes = true,
        r#type = "keyword",
        "message with {text}"
    );
}

fn assert_printable_line(line: &str) {
    let content = line.strip_suffix('\n').expect("a newline at the end");
    let found = content.chars().find(|&character| is_unprintable(character));
    assert_eq!(found, None, "{line:?}");
    assert!(line.len() < MAX_LINE_BYTES, "{} bytes", line.len());
}

fn json_of(line: &str) -> Value {
    let json = line.strip_prefix("<4>").unwrap_or(line);
    serde_json::from_str(json).expect("one JSON object")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_in_any_field_is_one_printable_line(
        text in prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter),
        hostile in prop::sample::select(vec![
            "\u{1b}[2J", "\nforged", "\r", "\u{85}", "\u{9b}31m", "\u{2028}", "\u{202e}", "\u{200b}", "\u{feff}",
            "\u{e0041}", "\"", "\\", "",
        ]),
        repeats in prop::sample::select(vec![1_usize, 1, 1, 100, 5000]),
    ) {
        let text = format!("{text}{hostile}").repeat(repeats);
        for settings in all_settings() {
            let line = logged_with(&settings, || log(&text));
            assert_printable_line(&line);
            if settings.format == Format::Json {
                let line = json_of(&line);
                prop_assert_eq!(&line["number"], -7);
                prop_assert_eq!(&line["target"], module_path!());
                if text.len() < 300 {
                    prop_assert_eq!(&line["a.string"], &text);
                    prop_assert_eq!(&line["display"], &text);
                    prop_assert_eq!(&line["error"], &text);
                }
            }
        }
    }
}

#[test]
fn json_line_keeps_the_type_of_every_value() {
    let line = json_of(&logged_with(&settings(Format::Json, "info"), || log("x")));
    assert_eq!(line["message"], "message with x");
    assert_eq!(line["debug"], "\"x\"");
    assert_eq!(line["float"], 1e300);
    assert_eq!(line["infinite"], Value::Null);
    assert_eq!(line["yes"], true);
    assert_eq!(line["type"], "keyword");
}

#[test]
fn text_line_has_time_level_target_and_fields() {
    let line = logged_with(&settings(Format::Text, "info"), || {
        tracing::warn!(target: "ott_gateway::x", name = "a \"b\"", cause = %"c d", count = 3, "it happened");
    });
    let (time, rest) = line.split_once(' ').expect("a time");
    assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    assert_eq!(rest, " WARN ott_gateway::x: it happened name=\"a \\\"b\\\"\" cause=\"c d\" count=3\n");
}

/// Returns the field names of a line in text format.
fn field_names(line: &str) -> Vec<String> {
    let (mut names, mut word, mut is_inside, mut is_escaped) = (Vec::new(), String::new(), false, false);
    for character in line.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_inside,
            '"' => is_inside = !is_inside,
            '=' if !is_inside => names.push(std::mem::take(&mut word)),
            _ if is_inside => {}
            _ if character.is_whitespace() => word.clear(),
            _ => word.push(character),
        }
    }
    names
}

proptest! {
    #[test]
    fn no_value_looks_like_another_field(text in "([a-z=\" \\\\\u{a0}\u{3000}\n]{0,20}|x level=\"y\" z=1|\"a\" b=\"c\")") {
        #[derive(Debug)]
        struct Shown<'a> {
            #[expect(dead_code, reason = "read by Debug")]
            text: &'a str,
        }
        let line = logged_with(&settings(Format::Text, "info"), || {
            tracing::warn!(
                a = text, b = %text, c = ?text, d = ?Shown { text: &text }, e = ?[&text], f = 7, "{text}"
            );
        });
        prop_assert_eq!(field_names(&line), ["a", "b", "c", "d", "e", "f"], "{}", line);
    }
}

#[test]
fn text_value_is_quoted_only_if_necessary() {
    let line = logged_with(&settings(Format::Text, "info"), || {
        tracing::warn!(a = %"one", b = %"", c = ?"d e", d = %"a=b", e = ?["f"], f = %"127.0.0.1:80", "it happened");
    });
    assert!(
        line.ends_with(
            r#": it happened a=one b="" c="d e" d="a=b" e="[\"f\"]" f=127.0.0.1:80
"#
        ),
        "{line}"
    );
}

#[test]
fn truncated_value_has_its_length() {
    let long = "é".repeat(100_000);
    for settings in all_settings() {
        let line = logged_with(&settings, || tracing::error!(cause = long, after = "whole", "it happened"));
        assert_printable_line(&line);
        assert!(line.contains("é… [cut, 200000 bytes in all]\""), "{}", &line[..100]);
        assert!(line.contains("whole") && line.contains("it happened"), "the rest of the line");
    }
}

#[test]
fn line_of_many_long_values_is_below_the_limit() {
    let long = "\u{1}".repeat(50_000);
    let long = long.as_str();
    for settings in all_settings() {
        let line = logged_with(&settings, || {
            tracing::error!(
                target: CALL_TARGET,
                a1 = long, a2 = long, a3 = long, a4 = long, a5 = long, a6 = long, a7 = long, a8 = long,
                b1 = long, b2 = long, b3 = long, b4 = long, b5 = long, b6 = long, b7 = long, b8 = long,
                c1 = long, c2 = long, c3 = long, c4 = long, c5 = long, c6 = long, c7 = long, c8 = long,
                "{long}"
            );
        });
        assert_printable_line(&line);
        assert_eq!(line.matches("[cut, 50000 bytes in all]").count(), 25);
    }
}

#[test]
fn each_level_has_its_severity_and_its_priority() {
    let json = Settings { has_priorities: true, ..settings(Format::Json, "trace") };
    let all = || {
        tracing::error!("1");
        tracing::warn!("2");
        tracing::info!("3");
        tracing::debug!("4");
        tracing::trace!("5");
    };
    let expected = [
        ("<3>", "ERROR", "ERROR"),
        ("<4>", "WARN", "WARNING"),
        ("<6>", "INFO", "INFO"),
        ("<7>", "DEBUG", "DEBUG"),
        ("<7>", "TRACE", "DEBUG"),
    ];
    let lines = logged_with(&json, all);
    assert_eq!(lines.lines().count(), expected.len());
    for (line, (priority, level, severity)) in lines.lines().zip(expected) {
        let line: Value =
            serde_json::from_str(line.strip_prefix(priority).expect("the priority")).expect("JSON");
        assert_eq!([&line["level"], &line["severity"]], [level, severity]);
    }
    let text = Settings { has_priorities: true, ..settings(Format::Text, "trace") };
    for (line, (priority, level, _)) in logged_with(&text, all).lines().zip(expected) {
        assert!(line.starts_with(&format!("{priority}2")) && line.contains(level), "{line}");
    }
}

#[test]
fn colors_come_from_the_formatter_and_never_from_values() {
    let text = Settings { has_colors: true, ..settings(Format::Text, "info") };
    let line = logged_with(&text, || tracing::warn!(cause = %"\u{1b}[31mred", "it happened"));
    assert!(line.contains("\u{1b}[33m WARN\u{1b}[0m"), "{line:?}");
    assert!(line.contains("\\u{1b}[31mred"), "{line:?}");
    assert!(!line.contains("\u{1b}[31m"), "{line:?}");
    let json = Settings { format: Format::Json, ..text };
    assert!(!logged_with(&json, || tracing::warn!("it happened")).contains('\u{1b}'));
}

#[test]
fn event_of_the_log_crate_keeps_its_target() {
    for (format, target) in
        [(Format::Json, r#""target":"rustls::client""#), (Format::Text, " rustls::client: ")]
    {
        let line = logged_with(&settings(format, "info"), || {
            tracing::info!(
                target: "log",
                number = 7,
                log.target = "rustls::client",
                log.module_path = "rustls::client",
                log.line = 7,
                "it happened"
            );
        });
        assert!(line.contains(target) && !line.contains("log."), "{line}");
    }
}
