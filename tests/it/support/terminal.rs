//! A command at a terminal of its own.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use ott_gateway::base::clock;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, SpecialCodeIndex, tcgetattr},
};

use super::gateway::PATIENCE;

/// Waits until a command has ended.
pub(crate) fn ended(mut child: Child) -> ExitStatus {
    let until = clock::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child of this process") {
            return status;
        }
        if clock::now() >= until {
            child.kill().expect("it is ended");
            panic!("the command does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A pseudo-terminal, seen from the side of the person at it.
pub(crate) struct Terminal {
    person: File,
    /// Keeps the terminal and its modes while no command uses it.
    _command: OwnedFd,
    text: String,
}

impl Terminal {
    /// Starts a command whose standard input, output and error are a terminal, which also
    /// controls it.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> (Self, Child) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&person).expect("access to it");
        unlockpt(&person).expect("it is unlocked");
        let name = ptsname(&person, Vec::new()).expect("its name");
        let command = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .expect("its other side");
        let side = || Stdio::from(command.try_clone().expect("a descriptor"));
        // `setsid` makes the terminal control a new session and executes the program in its place;
        // `env` undoes an ignored hang-up that the tests were started with, as by `nohup`.
        let child = Command::new("setsid")
            .args(["--ctty", "env", "--default-signal=HUP", env!("CARGO_BIN_EXE_ott-gateway")])
            .args(arguments)
            .env_remove("OTT_GATEWAY_CONFIG")
            .env_remove("OTT_GATEWAY_ENDPOINT")
            .env_remove("JOURNAL_STREAM")
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("setsid of util-linux, and env");
        (Self { person: File::from(person), _command: command, text: String::new() }, child)
    }

    /// Waits until the terminal has shown a text, and returns everything that it has shown.
    pub(crate) fn wait_for(&mut self, text: &str) -> &str {
        let until = clock::now() + PATIENCE;
        while !self.text.contains(text) {
            assert!(clock::now() < until, "never shown: {text}\n{}", self.text);
            let timeout = Duration::from_millis(100).try_into().expect("a timeout");
            let mut readable = [PollFd::new(&self.person, PollFlags::IN)];
            if poll(&mut readable, Some(&timeout)).expect("it can be polled") > 0 {
                let mut part = [0; 4096];
                let count = self.person.read(&mut part).expect("the terminal is open");
                self.text.push_str(&String::from_utf8_lossy(&part[..count]));
            }
        }
        &self.text
    }

    /// Types a text.
    pub(crate) fn types(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Whether the terminal shows what is typed.
    pub(crate) fn has_echo(&self) -> bool {
        tcgetattr(&self.person).expect("its modes").local_modes.contains(LocalModes::ECHO)
    }

    /// Whether a character suspends the command.
    pub(crate) fn can_suspend(&self) -> bool {
        tcgetattr(&self.person).expect("its modes").special_codes[SpecialCodeIndex::VSUSP] != 0
    }
}
