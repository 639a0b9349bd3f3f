//! Lost lines are counted, and written lines are complete.

use std::{
    io::Write as _,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::pipe::{PipeFlags, pipe, pipe_with};

use super::*;

const FLUSH: Duration = Duration::from_secs(10);

fn open(path: &str, options: &mut OpenOptions) -> File {
    options.open(path).expect("it opens")
}

/// Writes a line at once, like the formatter.
fn write_line(writer: &mut LogWriter, line: &str) {
    writer.write_all(format!("{line}\n").as_bytes()).expect("it never fails");
}

/// Writes `lines` lines to an output and returns how many were dropped.
fn dropped_of(lines: usize, output: impl AsFd + Send + 'static) -> u64 {
    let mut writer = LogWriter::start(output).expect("a thread");
    for number in 0..lines {
        write_line(&mut writer, &number.to_string());
    }
    writer.flush(FLUSH);
    writer.dropped()
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    assert_eq!(dropped_of(5, writer), 5, "there is no reader");
    assert_eq!(dropped_of(6, open("/dev/full", OpenOptions::new().write(true))), 6, "no space is left");
    assert_eq!(dropped_of(7, open("/dev/null", OpenOptions::new().read(true))), 7, "not open for writing");
    let closed = open("/dev/null", OpenOptions::new().read(true).write(true));
    assert_eq!(dropped_of(8, closed), 8, "closed when the process started");
    let discarded = open("/dev/null", OpenOptions::new().write(true));
    assert_eq!(dropped_of(9, discarded), 0, "discarded on purpose");
}

#[test]
fn writer_waits_for_a_non_blocking_output() {
    let (reader, writer) = pipe_with(PipeFlags::empty()).expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a flag");
    let mut log = LogWriter::start(writer).expect("a thread");
    // Four times as much as a pipe holds.
    let line = "x".repeat(1023);
    (0..256).for_each(|_| write_line(&mut log, &line));
    let (mut reader, mut text) = (File::from(reader), vec![0; 256 * 1024]);
    reader.read_exact(&mut text).expect("all lines");
    assert_eq!(log.dropped(), 0);
    assert!(text.chunks(1024).all(|chunk| chunk[..1023] == *line.as_bytes() && chunk[1023] == b'\n'));
}

#[test]
fn line_after_a_partial_line_starts_on_a_new_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let open_reader = || {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        OpenOptions::new().read(true).custom_flags(flags).open(&path).expect("it opens")
    };
    let reader = open_reader();
    let writer = OpenOptions::new().write(true).open(&path).expect("it opens");
    let mut log = LogWriter::start(writer).expect("a thread");
    // More than a pipe holds, so that the end of the line waits until the reader is gone.
    let partial = "x".repeat(100_000);
    write_line(&mut log, &partial);
    let deadline = clock::now() + FLUSH;
    while rustix::io::ioctl_fionread(&reader).expect("a number") < 65_536 {
        assert!(clock::now() < deadline, "the pipe is not filled");
        std::thread::yield_now();
    }
    drop(reader);
    while log.dropped() == 0 {
        assert!(clock::now() < deadline, "the line is not dropped");
        std::thread::yield_now();
    }
    let mut reader = open_reader();
    write_line(&mut log, "another one");
    let mut text = Vec::new();
    while !text.ends_with(b"another one\n") {
        assert!(clock::now() < deadline, "{} bytes", text.len());
        // Fails if the pipe is empty, but keeps the bytes read before.
        let _ = reader.read_to_end(&mut text);
    }
    assert!(text.ends_with(b"x\nanother one\n"), "it starts on a new line");
    assert_eq!(log.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn metrics_count_dropped_and_suppressed_lines() {
    let full = open("/dev/full", OpenOptions::new().write(true));
    let logging = Logging { writer: LogWriter::start(full).expect("a thread"), limiter: Limiter::default() };
    let subscriber =
        subscriber(&settings(Format::Json, "info"), logging.writer.clone(), logging.limiter.clone());
    let _second = second_dispatcher();
    let _guard = tracing::subscriber::set_default(subscriber);
    let metrics = Metrics::new();
    let report = tokio::spawn(logging.clone().report(metrics.clone()));
    let values = || {
        let rendered = metrics.render();
        ["dropped", "suppressed"].map(|kind| {
            let name = format!("ott_gateway_log_lines_{kind}_total ");
            let mut values = rendered.lines().filter_map(|line| line.strip_prefix(&name));
            values.next().and_then(|value| value.parse::<u64>().ok())
        })
    };
    // Let the first report pass.
    tokio::time::sleep(REPORT_INTERVAL / 2).await;
    assert_eq!(values(), [Some(0), Some(0)]);
    (0..25).for_each(|number| tracing::warn!(number, "the same place"));
    // The report of suppressed lines is a line too, and may be counted one report later.
    for _ in 0..2 {
        tokio::time::sleep(REPORT_INTERVAL).await;
        logging.writer.flush(FLUSH);
    }
    assert_eq!(values(), [Some(11), Some(15)]);
    report.abort();
}

#[test]
fn thread_that_waits_for_a_reader_is_not_blocked() {
    let metrics = Metrics::new();
    let conditions = || metrics.threads().unresponsive();
    let (_reader, full) = pipe().expect("a pipe");
    let mut log = LogWriter::start(full).expect("a thread");
    log.watch(metrics.threads());
    for number in 0..100_000 {
        write_line(&mut log, &number.to_string());
    }
    assert!(log.dropped() > 0, "there is no reader");
    assert!(metrics.render().contains("ott_gateway_thread_up{thread=\"log\"} 1"));
    assert_eq!(conditions(), []);
}

/// An output that panics when a line is written to it.
struct Panics(File, Arc<AtomicBool>);

impl AsFd for Panics {
    fn as_fd(&self) -> BorrowedFd<'_> {
        assert!(!self.1.load(Ordering::Relaxed), "simulated defect");
        self.0.as_fd()
    }
}

#[tokio::test]
async fn death_of_the_thread_is_reported() {
    let file = open("/dev/null", OpenOptions::new().write(true));
    let panics = Arc::new(AtomicBool::new(false));
    let mut log = LogWriter::start(Panics(file, Arc::clone(&panics))).expect("a thread");
    let metrics = Metrics::new();
    log.watch(metrics.threads());
    log.flush(FLUSH);
    panics.store(true, Ordering::Relaxed);
    write_line(&mut log, "the last one");
    assert_eq!(&*metrics.threads().lost().await, "log");
    assert!(metrics.render().contains("ott_gateway_thread_up{thread=\"log\"} 0"));

    let later = Metrics::new();
    log.watch(later.threads());
    assert_eq!(&*later.threads().lost().await, "log", "even if it died before it was watched");
}
