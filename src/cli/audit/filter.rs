//! Which records to print.

use std::time::{Duration, SystemTime};

use wildmatch::WildMatch;

use super::tokens::UserName;
use crate::{
    base::clock::WallClock,
    domain::ott::{Subject, SubjectKind},
    observe::audit::reader::{Event, Record, User},
};

/// The records that are asked for. All conditions must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) caller: Option<WildMatch>,
    pub(super) user: Option<Subject>,
    pub(super) since: Option<SystemTime>,
}

impl Filter {
    /// Returns whether anything is asked for.
    pub(super) const fn is_set(&self) -> bool {
        self.caller.is_some() || self.user.is_some() || self.since.is_some()
    }

    /// Returns whether to print a record. `issued_for` is the user of the token that a login spent,
    /// if it is known.
    pub(super) fn matches(&self, record: &Record, issued_for: Option<&UserName>) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.matches_caller(&record.event)
            && self.matches_user(&record.event, issued_for)
    }

    fn matches_caller(&self, event: &Event) -> bool {
        let Some(glob) = &self.caller else { return true };
        match event {
            Event::Call(call) | Event::UndeliveredSession(call) => {
                call.caller.as_deref().is_some_and(|caller| glob.matches(caller))
            }
            Event::RefusedCalls { callers, .. } => callers.iter().any(|caller| glob.matches(caller)),
            _ => false,
        }
    }

    fn matches_user(&self, event: &Event, issued_for: Option<&UserName>) -> bool {
        let Some(wanted) = &self.user else { return true };
        let is_name = |kind: &str, value: &str| kind == wanted.field() && value == wanted.canonical();
        let is_wanted = |user: &User| !user.unvalidated && is_name(&user.kind, &user.value);
        match event {
            Event::Call(call) | Event::UndeliveredSession(call) => match &call.user {
                Some(user) => is_wanted(user),
                None => issued_for.is_some_and(|user| !user.unvalidated && is_name(&user.kind, &user.value)),
            },
            Event::RefusedCalls { users, .. } => users.iter().any(is_wanted),
            _ => false,
        }
    }
}

/// Parses `KIND:NAME`. A text without a colon is a login.
pub(super) fn user(text: &str) -> Result<Subject, String> {
    let (kind, name) = text.split_once(':').unwrap_or((SubjectKind::Login.field(), text));
    let kinds = [SubjectKind::Login, SubjectKind::ExternalId, SubjectKind::UserId];
    let kind = kinds.into_iter().find(|known| known.field() == kind).ok_or(
        "must be login:NAME, external_id:ID or user_id:ID; write login:NAME if the login has a colon",
    )?;
    Subject::new(kind, name.to_owned()).map_err(|error| error.to_string())
}

/// Parses a time (RFC 3339), or the duration until now.
pub(super) fn since(text: &str) -> Result<SystemTime, String> {
    since_at(text, WallClock::system().now())
}

fn since_at(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Some(time) = rfc_3339(text) {
        return Ok(time);
    }
    let duration = humantime::parse_duration(text).map_err(|_| {
        "must be a time, such as 2026-01-31T10:00:00Z, or the duration until now, such as 24h".to_owned()
    })?;
    let since = now.checked_sub(duration).filter(|since| *since >= SystemTime::UNIX_EPOCH);
    since.ok_or_else(|| "is too long ago".to_owned())
}

/// Parses a time in any zone.
fn rfc_3339(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let number = |digits: &str, limit: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { digits.parse::<u64>().ok().filter(|number| *number < limit) } else { None }
    };
    let offset = Duration::from_secs(number(hours, 24)? * 3600 + number(minutes, 60)? * 60);
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match zone.as_bytes().first()? {
        b'+' => time.checked_sub(offset),
        b'-' => time.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_in_any_zone_or_a_duration() {
        let time = |text: &str| humantime::parse_rfc3339(text).expect("a time");
        let now = time("2026-01-31T10:00:00Z");
        for (text, expected) in [
            ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
            ("2026-01-31T10:00:00.5Z", "2026-01-31T10:00:00.5Z"),
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
            ("2026-01-30T23:30:00-10:30", "2026-01-31T10:00:00Z"),
            ("24h", "2026-01-30T10:00:00Z"),
            ("1day 1h", "2026-01-30T09:00:00Z"),
        ] {
            assert_eq!(since_at(text, now), Ok(time(expected)), "{text}");
        }
        for text in ["", "yesterday", "24", "2026-01-31", "2026-01-31T10:00:00+2:00", "1000000y", "é+02:00"]
        {
            since_at(text, now).expect_err(text);
        }
    }

    #[test]
    fn user_is_compared_in_canonical_form() {
        assert_eq!(
            user("Anna@Example.com").map(|user| user.canonical().to_owned()),
            Ok("anna@example.com".into())
        );
        assert_eq!(user("login:a:b").map(|user| user.canonical().to_owned()), Ok("a:b".into()));
        assert_eq!(user("external_id:X").map(|user| user.canonical().to_owned()), Ok("X".into()));
        for text in ["", "login:", "logins:a", "a:b"] {
            user(text).expect_err(text);
        }
    }
}
