//! Metrics of the process: its version, threads, background tasks, limits and log.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntGaugeVec};

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::observe::telemetry::{
    duties::{Duties, Duty},
    label::labels,
    threads::Threads,
};

labels! {
    /// A limit that is lowered if it exceeds the limit of open files, as a label.
    pub enum EffectiveLimit {
        /// `max_connections`.
        Connections = "connections",
        /// `max_in_flight`.
        InFlight = "in_flight",
    }
}

/// The families of this module.
pub(super) struct ProcessFamilies {
    event_loop_lag: Histogram,
    threads: Threads,
    thread_up: GaugeVec,
    duties: Duties,
    duty_up: GaugeVec,
    limits: IntGaugeVec,
    limits_lowered: Gauge,
    log_lines_dropped: IntCounter,
    log_lines_suppressed: IntCounter,
}

impl ProcessFamilies {
    pub(super) fn register(families: &Families<'_>, threads: Threads) -> Self {
        families
            .gauges("ott_gateway_build_info", "The version of the gateway; always 1.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let restarts: Per<Duty, IntCounter> = families.counter_per(
            "ott_gateway_duty_restarts_total",
            "Background tasks that ended and were restarted.",
            "duty",
        );
        Self {
            event_loop_lag: families.histogram(
                "ott_gateway_event_loop_lag_seconds",
                "Delay of timers on the workers, measured four times a second while they are busy.",
            ),
            threads,
            thread_up: families.gauges(
                "ott_gateway_thread_up",
                "1 if the thread responds, 0 if it is blocked or dead.",
                &["thread"],
            ),
            duties: Duties::new(Duty::ALL.map(|duty| restarts.get(duty).clone())),
            duty_up: families.gauges(
                "ott_gateway_duty_up",
                "1 if the background task runs, 0 if it has been failing for 10 s or more.",
                &["duty"],
            ),
            limits: families.int_gauges(
                "ott_gateway_limit",
                "Effective limits, which depend on the limit of open files and on memory.",
                &["limit"],
            ),
            limits_lowered: families.gauge(
                "ott_gateway_limits_lowered",
                "1 if the limit of open files is too low for the configured limits.",
            ),
            log_lines_dropped: families.counter(
                "ott_gateway_log_lines_dropped_total",
                "Log lines that could not be written, or were dropped because standard error was not read fast enough.",
            ),
            log_lines_suppressed: families.counter(
                "ott_gateway_log_lines_suppressed_total",
                "Log lines that were suppressed as repetitions.",
            ),
        }
    }

    /// Sets the gauges to their current values.
    pub(super) fn refresh(&self) {
        // A thread that stopped as intended is no longer exported.
        self.thread_up.reset();
        for (thread, condition) in self.threads.conditions() {
            let up = if condition.is_failure() { 0.0 } else { 1.0 };
            self.thread_up.with_label_values(&[&*thread]).set(up);
        }
        self.duty_up.reset();
        for duty in Duty::ALL {
            if let Some(is_up) = self.duties.is_up(duty) {
                self.duty_up.with_label_values(&[duty.as_str()]).set(f64::from(u8::from(is_up)));
            }
        }
    }
}

impl Metrics {
    /// Records the delay of a worker's timer.
    pub fn event_loop_lag(&self, lag: Duration) {
        self.0.process.event_loop_lag.observe(lag.as_secs_f64());
    }

    /// Returns the heartbeats of threads, which are exported.
    #[must_use]
    pub fn threads(&self) -> &Threads {
        &self.0.process.threads
    }

    /// Returns the background tasks, which are exported.
    #[must_use]
    pub fn duties(&self) -> &Duties {
        &self.0.process.duties
    }

    /// Sets an effective limit.
    pub fn limit(&self, limit: EffectiveLimit, value: u32) {
        self.0.process.limits.with_label_values(&[limit.as_str()]).set(value.into());
    }

    /// Sets whether limits are lower than configured because of the limit of open files.
    pub fn limits_lowered(&self, lowered: bool) {
        self.0.process.limits_lowered.set(f64::from(u8::from(lowered)));
    }

    /// Sets the total number of log lines that this process dropped and suppressed.
    pub fn set_log_lines(&self, dropped: u64, suppressed: u64) {
        for (counter, now) in
            [(&self.0.process.log_lines_dropped, dropped), (&self.0.process.log_lines_suppressed, suppressed)]
        {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }
}
