//! `--ready-file`: the addresses of a running sandbox as JSON, for tests that let the system choose
//! the ports.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::cli::failure::Failure;

/// Contents of the file.
#[derive(Debug, Serialize)]
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

/// A file that exists while the sandbox serves. Removed when dropped.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes the file of an earlier sandbox, so that nobody reads it.
    pub(super) fn prepare(path: &Path) -> Result<Self, Failure> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
            _ => Ok(Self { path: path.to_owned() }),
        }
    }

    /// Writes the file atomically.
    pub(super) fn write(&self, ready: &Ready) -> Result<(), Failure> {
        let mut json = serde_json::to_string(ready).map_err(|error| Failure::Failed(error.to_string()))?;
        json.push('\n');
        // In the same folder, so that the rename is atomic.
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", ready.pid));
        let unfinished = self.path.with_file_name(name);
        let written = fs::write(&unfinished, json).and_then(|()| fs::rename(&unfinished, &self.path));
        written.map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            failed(&self.path, &error)
        })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // The sandbox has stopped, so there is nowhere to report an error.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("--ready-file: cannot write {} ({})", path.display(), error.kind()))
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
        fs::write(&path, "of an earlier one").unwrap();
        let file = ReadyFile::prepare(&path).unwrap();
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
    fn error_contains_a_path_that_cannot_be_written() {
        let file = ReadyFile::prepare(Path::new("/nowhere/ready.json")).unwrap();
        let error = file.write(&ready()).unwrap_err().to_string();
        assert!(error.starts_with("--ready-file: cannot write /nowhere/ready.json"), "{error}");
    }
}
