//! Pages and metrics of the admin listener.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use ott_gateway::base::clock;

use super::gateway::PATIENCE;

/// The admin listener of a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin(pub(crate) SocketAddr);

/// All metrics at one moment.
pub(crate) struct Scrape(String);

impl Admin {
    /// Status and body of a page.
    pub(crate) fn page(self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).expect("the admin listener accepts");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// All metrics.
    pub(crate) fn scrape(self) -> Scrape {
        let (status, text) = self.page("/metrics");
        assert_eq!(status, 200);
        Scrape(text)
    }

    /// Waits until the sum of the series has this value.
    pub(crate) async fn wait_for(self, series: &str, value: f64) {
        let until = clock::now() + PATIENCE;
        loop {
            let scrape = self.scrape();
            if scrape.find(series) == Some(value) {
                return;
            }
            assert!(clock::now() < until, "{series} never reached {value}, but is {:?}", scrape.find(series));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Scrape {
    /// The whole page.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The sum of the series with this name and all these labels, written as
    /// `name{label="value",…}`.
    pub(crate) fn find(&self, series: &str) -> Option<f64> {
        let (name, wanted) = parts(series);
        let mut found = self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (other, labels) = parts(series);
            let fits = other == name && wanted.iter().all(|label| labels.contains(label));
            fits.then(|| value.parse::<f64>().expect("a number"))
        });
        let first = found.next()?;
        Some(first + found.sum::<f64>())
    }

    /// Like [`find`](Self::find), for series that must exist.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("{series} is missing"))
    }

    /// Asserts the exact values of several series.
    pub(crate) fn has(&self, expected: &[(&str, f64)]) {
        let wrong: Vec<String> = expected
            .iter()
            .filter(|(series, value)| self.find(series) != Some(*value))
            .map(|(series, value)| format!("{series}: {value} expected, {:?} found", self.find(series)))
            .collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

/// The name and the labels of a series.
fn parts(series: &str) -> (&str, Vec<&str>) {
    match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, labels)) => (name, labels.trim_end_matches('}').split(',').collect()),
    }
}
