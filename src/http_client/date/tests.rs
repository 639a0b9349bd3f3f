//! Dates as servers send them, and arbitrary bytes.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;

/// 1994-11-06T08:49:37Z.
const SECONDS: u64 = 784_111_777;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn all_common_spellings_of_a_date_are_parsed() {
    for text in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 08:49:37 Z",
        "Sun, 06 Nov 1994 08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 8:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun,06 Nov 1994 08:49:37 GMT",
        "Mon, 06 Nov 1994 08:49:37 GMT",
        "06 Nov 1994 08:49:37",
        "6 November 1994, 08:49:37",
        "SUN, 06 NOV 1994 08:49:37 gmt",
        "Sun Nov  6 08:49:37 GMT 1994",
        "Sun Nov 06 1994 08:49:37 GMT+0000 (Coordinated Universal Time)",
        "08:49:37 06/Nov/1994",
        "1994 Nov 6 08:49:37.000",
        "  \t\"Sun, 06 Nov 1994 08:49:37 GMT\" ",
        "Sun; 06_Nov_1994~08:49:37",
    ] {
        assert_eq!(parse_date(text.as_bytes()), Some(at(SECONDS)), "{text}");
    }
    assert_eq!(parse_date(b"\xe4\xff Sun, 06 Nov\xe9mbre 1994 08:49:37\xff"), Some(at(SECONDS)));
    assert_eq!(parse_date(b"Thu, 1 Jan 1970 00:00:01 GMT"), Some(at(1)));
    assert_eq!(parse_date(b"Thu, 01-Jan-1970 00:00:00 UTC"), Some(at(0)));
}

#[test]
fn numeric_offset_after_the_time_is_applied() {
    for text in [
        "Sun, 06 Nov 1994 10:49:37 +0200",
        "Sun, 06 Nov 1994 10:49:37+0200",
        "Sun, 06 Nov 1994 10:49:37 +02:00",
        "Sun, 06 Nov 1994 10:49:37 +02",
        "Sun, 06 Nov 1994 10:49:37 GMT+2",
        "Sun Nov 06 1994 10:49:37 GMT+0200 (Central European Standard Time)",
        "Sun Nov 6 10:49:37 +0200 1994",
        "Sun Nov 6 10:49:37 +02:00 1994",
        "10:49:37 +0200 6 Nov 1994",
        "Sun, 06 Nov 1994 00:49:37 -0800",
        "Sat, 05 Nov 1994 20:49:37 UTC-1200",
        "Sun, 06 Nov 1994 14:19:37 +0530",
    ] {
        assert_eq!(parse_date(text.as_bytes()), Some(at(SECONDS)), "{text}");
    }
}

#[test]
fn a_day_or_year_after_a_dash_is_not_an_offset() {
    for text in [
        "08:49:37 Sun-06-Nov-1994",
        "08:49:37-06-Nov-1994",
        "Nov-06 08:49:37-1994",
        "Nov-06 08:49:37 GMT-94",
        "Sun, 06 Nov 1994 08:49:37 (-0200)",
        "08:49:37 1994-Nov-06",
    ] {
        let expected = if text.contains("(-") { SECONDS + 7200 } else { SECONDS };
        assert_eq!(parse_date(text.as_bytes()), Some(at(expected)), "{text}");
    }
}

#[test]
fn two_digit_years_run_from_1970_to_2069() {
    for (year, full) in
        [("00", 2000), ("69", 2069), ("70", 1970), ("99", 1999), ("0094", 1994), ("1601", 1601)]
    {
        let read = parse_date(format!("1 Jan {year} 00:00:00").as_bytes()).unwrap();
        assert_eq!(OffsetDateTime::from(read).year(), full, "{year}");
    }
}

#[test]
fn impossible_dates_are_rejected() {
    for text in [
        "",
        " ",
        "soon",
        "0",
        "784111777",
        "Sun, 06 Nov 1994",
        "Nov 1994 08:49:37",
        "06 1994 08:49:37",
        "06 Nov 08:49:37",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 008:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:377 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Thu, 31 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 08:49:37 GMT",
        "Sun, 06 Nov 1600 08:49:37 GMT",
        "Sun, 06 Nov 10000 08:49:37 GMT",
        "Sun, 006 Nov 1994 08:49:37 GMT",
        "Sun, 06 N\u{f6}v 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
    ] {
        assert_eq!(parse_date(text.as_bytes()), None, "{text}");
    }
    assert!(parse_date(b"Thu, 29 Feb 2024 08:49:37 GMT").is_some());
}

#[test]
fn a_leap_second_is_read_as_the_second_before() {
    assert_eq!(
        parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT"),
        parse_date(b"Sat, 31 Dec 2016 23:59:59 GMT").filter(|date| *date == at(1_483_228_799))
    );
}

#[test]
fn dates_at_both_ends_are_read_with_any_offset() {
    let first = parse_date(b"1 Jan 1601 00:00:00 +1400").unwrap();
    let last = parse_date(b"31 Dec 9999 23:59:59 -1400").unwrap();
    assert_eq!(SystemTime::UNIX_EPOCH.duration_since(first).unwrap().as_secs(), 11_644_473_600 + 14 * 3600);
    assert_eq!(last, at(253_402_300_799 + 14 * 3600));
}

/// Generates texts from pieces of dates, so that all branches are reached.
fn almost_a_date() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[A-Za-z]{1,4}",
        "[0-9]{1,5}",
        "[0-9]{1,3}:[0-9]{1,3}:[0-9]{1,3}[A-Z]?",
        "[+-][0-9]{1,5}",
        "[+-][0-9]{2}:[0-9]{2}",
        "(Jan|feb|MAR|Nov|GMT|UTC|Sun)",
        "\\PC",
    ];
    prop::collection::vec((piece, "[ ,:+-]{0,2}"), 0..9)
        .prop_map(|pieces| pieces.into_iter().map(|(piece, delimiter)| piece + &delimiter).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_date(&bytes);
    }

    #[test]
    fn pieces_of_dates_never_panic_and_stay_within_the_years(text in almost_a_date()) {
        if let Some(date) = parse_date(text.as_bytes()) {
            let seconds = OffsetDateTime::from(date).unix_timestamp();
            let day = 24 * 3600;
            prop_assert!((-11_644_473_600 - day..=253_402_300_799 + day).contains(&seconds));
        }
    }

    /// `httpdate` parses only the three formats of RFC 9110.
    #[test]
    fn dates_that_httpdate_parses_have_the_same_value(
        text in "(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3][0-9] (Jan|Feb|Nov|Dec) (19[6-9]|20[0-9])[0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT",
    ) {
        if let Ok(expected) = httpdate::parse_http_date(&text) {
            prop_assert_eq!(parse_date(text.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn every_format_of_every_time_is_parsed_back(seconds in 0_u64..=253_402_300_799, hours in -14_i64..=14) {
        let moment = at(seconds);
        let fixdate = httpdate::fmt_http_date(moment);
        prop_assert_eq!(httpdate::parse_http_date(&fixdate).ok(), Some(moment));
        let words: Vec<&str> = fixdate.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let [weekday, day, month, year, time, _] = words[..] else { panic!("{fixdate}") };
        let mut styles = vec![
            fixdate.clone(),
            fixdate.replace("GMT", "UTC"),
            fixdate.replace("GMT", "+0000"),
            fixdate.replace(" GMT", ""),
            format!("{weekday}, {}-{month}-{year} {time} GMT", day.trim_start_matches('0')),
            format!("{weekday} {month} {:>2} {time} {year}", day.trim_start_matches('0')),
            format!("{weekday} {month} {day} {time} +0000 {year}"),
        ];
        if (1970..2070).contains(&year.parse::<u32>().unwrap()) {
            styles.push(format!("{weekday}, {day}-{month}-{} {time} GMT", &year[2..]));
        }
        for style in styles {
            prop_assert_eq!(parse_date(style.as_bytes()), Some(moment), "{}", style);
        }
        let shifted = fixdate.replace("GMT", &format!("{hours:+03}00"));
        let expected = system_time(i64::try_from(seconds).unwrap() - hours * 3600);
        prop_assert_eq!(parse_date(shifted.as_bytes()), expected, "{}", shifted);
    }
}
