//! `check-config --junit`: the results of access tests in the JUnit XML form of CI servers.
//!
//! There are two test suites: `configuration`, with one test case for everything else in the
//! configuration, and `access.tests`, with one for each access test. A suite of the candidate rules
//! has a name of its own, so that a CI server keeps the history of both.

use std::{
    fmt::{self, Display, Write},
    fs, io,
    path::Path,
};

use crate::{
    base::text::{Notation, is_unprintable},
    config::{AccessTest, AccessTestResult, Expected, Place, Problem, TestOutcome, TestedRules},
};

/// Displays a text as the content of an element or attribute of XML 1.0. Characters that are not
/// printable, some of which XML does not allow, are escaped as in other output; line breaks are kept
/// as references, because parsers turn those of attributes into spaces.
struct Escaped<T>(T);

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '&' => self.0.write_str("&amp;"),
            '<' => self.0.write_str("&lt;"),
            '>' => self.0.write_str("&gt;"),
            '"' => self.0.write_str("&quot;"),
            '\n' => self.0.write_str("&#10;"),
            character if is_unprintable(character) => Notation::Plain.write_escape(character, self.0),
            character => self.0.write_char(character),
        })
    }
}

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes the report of tests that were run against these rules. `problem` is the reason that the
/// configuration is not valid, apart from failed tests; `explained` returns the problem of a failed
/// test.
///
/// # Errors
///
/// The file cannot be written.
pub(super) fn write(
    to: &Path,
    config: &Path,
    problem: Option<&str>,
    tested: TestedRules,
    tests: &[AccessTestResult],
    explained: impl Fn(&AccessTestResult) -> Option<Problem>,
) -> io::Result<()> {
    fs::write(to, report(config, problem, tested, tests, explained))
}

fn report(
    config: &Path,
    problem: Option<&str>,
    tested: TestedRules,
    tests: &[AccessTestResult],
    explained: impl Fn(&AccessTestResult) -> Option<Problem>,
) -> String {
    let suite = match tested {
        TestedRules::InForce => "access.tests",
        TestedRules::Candidates => "access.tests.candidate_rules",
    };
    let count = |is: fn(&TestOutcome) -> bool| tests.iter().filter(|result| is(&result.outcome)).count();
    let failures = count(|outcome| matches!(outcome, TestOutcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, TestOutcome::NotRun));
    let (errors, all) = (usize::from(problem.is_some()), tests.len() + 1);
    let file = Escaped(config.display());
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let mut line = |text: fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(xml, "{text}");
    };
    line(format_args!(
        "<testsuites name=\"ott-gateway check-config\" tests=\"{all}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\">"
    ));
    line(format_args!(
        "<testsuite name=\"configuration\" tests=\"1\" failures=\"0\" errors=\"{errors}\" skipped=\"0\">"
    ));
    line(format_args!("<testcase classname=\"configuration\" name=\"{file}\" file=\"{file}\">"));
    if let Some(problem) = problem {
        line(format_args!("<error message=\"the configuration is not valid\">{}</error>", Escaped(problem)));
    }
    line(format_args!("</testcase>\n</testsuite>"));
    line(format_args!(
        "<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\">",
        tests.len()
    ));
    for result in tests {
        let name = Escaped(name(&result.test));
        line(format_args!("<testcase classname=\"{suite}\" name=\"{name}\"{}>", place(&result.test.place)));
        match (&result.outcome, explained(result)) {
            (TestOutcome::Failed(failure), problem) => line(format_args!(
                "<failure message=\"{}\">{}</failure>",
                Escaped(failure),
                Escaped(problem.map(|problem| problem.to_string()).unwrap_or_default())
            )),
            (TestOutcome::NotRun, _) => {
                line(format_args!("<skipped message=\"not run: the configuration is not valid\"/>"));
            }
            (TestOutcome::Passed { .. }, _) => {}
        }
        line(format_args!("</testcase>"));
    }
    line(format_args!("</testsuite>\n</testsuites>"));
    xml
}

/// Returns the name of a test case, which is unique.
fn name(test: &AccessTest) -> String {
    let user = test.user.as_ref().map_or_else(|| "-".to_owned(), |user| user.as_asked().to_string());
    let expected = match &test.expected {
        Expected::Deny => "deny".to_owned(),
        Expected::Allow { rule: None } => "allow".to_owned(),
        Expected::Allow { rule: Some(rule) } => format!("allow by rule {rule}"),
    };
    format!("{}: {} {} {user}: {expected}", test.number, test.caller, test.method.name())
}

fn place(place: &Place) -> String {
    match place {
        Place::Line(file, line) => format!(" file=\"{}\" line=\"{line}\"", Escaped(file.display())),
        Place::File(_) | Place::Variable(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_well_formed_with_any_characters() {
        let shown = |text: &str| Escaped(text).to_string();
        assert_eq!(shown("a<b>&\"c\"]]>"), "a&lt;b&gt;&amp;&quot;c&quot;]]&gt;");
        assert_eq!(shown("a\nb\u{0}\u{1b}[2J\u{202e}\u{ffff}"), "a&#10;b\\u{0}\\u{1b}[2J\\u{202e}\\u{ffff}");
        assert_eq!(shown("j\u{fc}rgen@\u{1f600}"), "j\u{fc}rgen@\u{1f600}");
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_has_no_markup_and_only_characters_of_xml(text in "\\PC{0,40}|.{0,40}") {
            let escaped = Escaped(&text).to_string();
            let is_allowed = |character: char| {
                matches!(character, ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
                    && !matches!(character, '<' | '>' | '"')
            };
            assert!(escaped.chars().all(is_allowed), "{escaped:?}");
            for reference in escaped.split('&').skip(1) {
                let known = ["amp;", "lt;", "gt;", "quot;", "#10;"];
                assert!(known.iter().any(|known| reference.starts_with(known)), "{escaped:?}");
            }
        }
    }
}
