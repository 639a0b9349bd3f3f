//! `[audit]`: where the record of every call goes.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::process::{Uid, geteuid};

use super::{
    finding::{Problem, ShownPath, unreadable},
    named_file,
    section::Section,
    tree::Value,
    value,
};
use crate::observe::audit::{HmacKeyFile, Settings, Sink};

/// Reads `[audit]`.
pub(super) fn read_audit(mut section: Section<'_>) -> Settings {
    let sink = match section.optional("sink", value::text).as_deref() {
        None | Some("stdout") => Sink::Stdout,
        Some("off") => Sink::Off,
        Some(path) => file_sink(&section, path),
    };
    if sink == Sink::Off {
        section.warning("sink", "is \"off\": there is no record of who obtained which token");
    }
    let fsync = section.optional("fsync", value::boolean).unwrap_or(false);
    if fsync && !matches!(sink, Sink::File(_)) {
        section.error("fsync", Problem::rule("needs a sink that is a file"));
    }
    let hmac_key_file = named_file::hmac_key(&mut section, "hmac_key_file");
    if section.has("hmac_key_id") && !section.has("hmac_key_file") {
        section.error("hmac_key_id", Problem::rule("needs hmac_key_file"));
    }
    let hmac_key_id = section.optional("hmac_key_id", key_id).or_else(|| {
        let name = hmac_key_file.as_ref()?.file_stem()?.to_string_lossy().into_owned();
        // The file name may contain characters that an id must not.
        Some(if is_key_id(&name) { name } else { "key".to_owned() })
    });
    section.finish();
    let hmac_key = hmac_key_file.zip(hmac_key_id).map(|(path, id)| HmacKeyFile { path, id });
    Settings { sink, hmac_key, fsync }
}

fn file_sink(section: &Section<'_>, text: &str) -> Sink {
    let path = section.resolve("sink", text);
    if !text.contains('/') {
        // A bare word is more likely a misspelled "stdout" or "off" than a file name.
        section.error(
            "sink",
            Problem::rule("must be \"stdout\", \"off\", or the path of a file that contains a \"/\""),
        );
    } else if path.is_dir() {
        section.error("sink", Problem::rule(unreadable(&path, io::ErrorKind::IsADirectory)));
    } else if !path.parent().is_some_and(Path::is_dir) {
        let folder = ShownPath(path.parent().unwrap_or(&path));
        section.error("sink", Problem::rule(format!("no such folder: {folder}; create it")));
    } else {
        warn_if_exposed(section, &path);
    }
    Sink::File(path)
}

/// Mode bits of a file that allow users outside its group to read it, or users other than its owner
/// to change it.
const FILE_OPEN_TO_OTHERS: u32 = 0o026;
/// Mode bits of a folder that allow users other than its owner to replace files in it.
const OTHERS_MAY_REPLACE: u32 = 0o022;
/// Mode bit of a folder that overrides [`OTHERS_MAY_REPLACE`].
const STICKY: u32 = 0o1000;

/// Warns if other users can read, change or replace the file.
fn warn_if_exposed(section: &Section<'_>, path: &Path) {
    let mode = |metadata: &fs::Metadata| metadata.permissions().mode();
    if path.is_symlink() {
        section.warning(
            "sink",
            "is a symbolic link: anyone who can change it redirects the records; name the file",
        );
    }
    if fs::metadata(path).is_ok_and(|file| file.is_file() && mode(&file) & FILE_OPEN_TO_OTHERS != 0) {
        section.warning("sink", "the file is open to other users; chmod it to 0640");
    }
    let owner = |file: &fs::Metadata| Uid::from_raw(file.uid());
    let is_ours = |file: &fs::Metadata| owner(file).is_root() || owner(file) == geteuid();
    if fs::metadata(path).is_ok_and(|file| file.is_file() && !is_ours(&file)) {
        section.warning("sink", "another user owns the file and can change it; chown it");
    }
    let may_replace =
        |folder: &fs::Metadata| mode(folder) & OTHERS_MAY_REPLACE != 0 && mode(folder) & STICKY == 0;
    if path.parent().and_then(|folder| fs::metadata(folder).ok()).is_some_and(|folder| may_replace(&folder)) {
        section.warning(
            "sink",
            "other users can replace the file, because they can write to its folder; chmod the folder to 0750",
        );
    }
}

fn key_id(value: &Value) -> Result<String, Problem> {
    value::text(value).and_then(|id| {
        if is_key_id(&id) {
            Ok(id)
        } else {
            Err(Problem::rule("must be 1 to 32 letters, digits, \"-\", \"_\" and \".\""))
        }
    })
}

fn is_key_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
