//! `--ready-file`: the addresses of a running sandbox as JSON, for tests that let the system choose
//! the ports.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{cli::failure::Failure, config::absolute};

/// Contents of the file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Ready {
    /// Address of the gateway, for this machine.
    pub(super) gateway: String,
    /// Whether the gateway uses TLS.
    pub(super) gateway_tls: bool,
    /// URL of the simulated platform, for this machine.
    pub(super) platform: String,
    /// URL of the simulated platform in the login URLs of the gateway.
    pub(super) public_url: String,
    /// Address of metrics and probes, if enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin: Option<String>,
    /// Id of the process.
    pub(super) pid: u32,
}

/// Maximum size of a file that may be a ready file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A file that exists while the sandbox serves. Removed when dropped.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
    /// What this process has written to it: pid and addresses of no other sandbox.
    written: Option<String>,
}

impl ReadyFile {
    /// Checks that the path is free, or that of a ready file, and that its folder can be written.
    /// Removes nothing yet: the sandbox may not start, because another one uses the same ports.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let usage = |failure: Failure| Failure::Usage(failure.to_string());
        is_earlier(path).map_err(usage)?;
        let probe = unfinished(path);
        File::create_new(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|error| usage(failed(path, &error)))?;
        Ok(Self { path: path.to_owned(), written: None })
    }

    /// Removes the ready file of an earlier sandbox, so that no test reads it.
    pub(super) fn remove_earlier(&self) -> Result<(), Failure> {
        if !is_earlier(&self.path)? {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.path, &error)),
            _ => Ok(()),
        }
    }

    /// Writes the file atomically.
    pub(super) fn write(&mut self, ready: &Ready) -> Result<(), Failure> {
        let mut json = serde_json::to_string(ready).map_err(|error| Failure::Failed(error.to_string()))?;
        json.push('\n');
        let unfinished = unfinished(&self.path);
        let mut file = File::create_new(&unfinished).map_err(|error| failed(&self.path, &error))?;
        let written = file.write_all(json.as_bytes()).and_then(|()| fs::rename(&unfinished, &self.path));
        written.map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            failed(&self.path, &error)
        })?;
        self.written = Some(json);
        Ok(())
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Another sandbox may have replaced it.
        if self.written.is_some() && self.written == contents(&self.path).ok().flatten() {
            // The sandbox has stopped, so there is nowhere to report an error.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the path of a file that replaces `path`. It is in the same folder, so that the rename is
/// atomic. The name is unpredictable, so that other users of the folder cannot place a link there.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{}", std::process::id(), Uuid::new_v4()));
    path.with_file_name(name)
}

/// Returns whether there is a ready file.
///
/// # Errors
///
/// There is another file, or it cannot be read.
fn is_earlier(path: &Path) -> Result<bool, Failure> {
    match contents(path) {
        Ok(Some(text)) if serde_json::from_str::<Ready>(&text).is_ok() => Ok(true),
        Ok(_) => Err(Failure::Usage(format!(
            "--ready-file: {} exists and is not a ready file; choose another name",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, &error)),
    }
}

/// Returns the text of a regular file; `None`: it is something else, or too large.
fn contents(path: &Path) -> io::Result<Option<String>> {
    // Opening a pipe would block, and a link leads to a file of another name.
    let file = fs::symlink_metadata(path)?;
    if !file.is_file() || file.len() > MAX_BYTES {
        return Ok(None);
    }
    Ok(String::from_utf8(fs::read(path)?).ok())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let path = absolute(path);
    let folder = path.parent().unwrap_or(&path);
    let cause = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no folder {}", folder.display()),
        io::ErrorKind::NotADirectory => format!("{} is not a folder", folder.display()),
        io::ErrorKind::PermissionDenied => {
            format!("permission denied; allow this user to write to {}", folder.display())
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("{} is read-only", folder.display()),
        _ => error.to_string(),
    };
    Failure::Failed(format!("--ready-file: cannot write {}: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        Ready {
            gateway: "127.0.0.1:50051".to_owned(),
            gateway_tls: false,
            platform: "http://127.0.0.1:8080".to_owned(),
            public_url: "http://localhost:8080".to_owned(),
            admin: None,
            pid: 7,
        }
    }

    #[test]
    fn complete_file_exists_while_the_sandbox_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let earlier = serde_json::to_string(&Ready { pid: 6, ..ready() }).unwrap();
        fs::write(&path, &earlier).unwrap();
        let mut file = ReadyFile::new(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), earlier, "the ports are not bound yet");
        file.remove_earlier().unwrap();
        assert!(!path.exists(), "the file of an earlier sandbox is removed");
        file.write(&ready()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["gateway"], "127.0.0.1:50051");
        assert_eq!(read["public_url"], "http://localhost:8080");
        assert!(read.get("admin").is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file remains");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn only_ready_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.json");
        let large = " ".repeat(64 * 1024) + &serde_json::to_string(&ready()).unwrap();
        for text in ["", "notes", "{}", r#"{"gateway": "127.0.0.1:50051", "pid": 7}"#, &large] {
            fs::write(&path, text).unwrap();
            let error = ReadyFile::new(&path).unwrap_err();
            assert!(matches!(error, Failure::Usage(_)), "{error}");
            assert!(error.to_string().contains("exists and is not a ready file"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(ReadyFile::new(&link), Err(Failure::Usage(_))));
        assert!(matches!(ReadyFile::new(folder.path()), Err(Failure::Usage(_))));
        // One that came after the check.
        fs::remove_file(&path).unwrap();
        let file = ReadyFile::new(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        assert!(matches!(file.remove_earlier(), Err(Failure::Usage(_))));
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[test]
    fn file_of_another_sandbox_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let mut first = ReadyFile::new(&path).unwrap();
        first.write(&ready()).unwrap();
        let own = fs::read_to_string(&path).unwrap();
        drop(ReadyFile::new(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), own, "one that did not start");
        let mut second = ReadyFile::new(&path).unwrap();
        second.remove_earlier().unwrap();
        // In two containers, both can have the same pid.
        second.write(&Ready { gateway: "127.0.0.1:50052".to_owned(), ..ready() }).unwrap();
        drop(first);
        assert!(fs::read_to_string(&path).unwrap().contains("127.0.0.1:50052"));
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn error_contains_a_path_that_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let within = |name: &str| folder.path().join(name);
        for (path, cause) in [
            (within("none/ready.json"), format!("there is no folder {}", within("none").display())),
            (within("file/ready.json"), format!("{} is not a folder", within("file").display())),
        ] {
            let error = ReadyFile::new(&path).unwrap_err();
            assert!(matches!(error, Failure::Usage(_)), "before the sandbox starts");
            let expected = format!("--ready-file: cannot write {}: {cause}", path.display());
            assert_eq!(error.to_string(), expected);
        }
        let mut file = ReadyFile::new(&within("ready.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the check leaves no file");
        fs::remove_dir_all(folder.path()).unwrap();
        let error = file.write(&ready()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("there is no folder {}", folder.path().display())), "{error}");
    }
}
