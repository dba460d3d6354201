//! Settings of a client, and when to try again.

use std::time::Duration;

use dq_tls::TlsConfig;

use crate::error::Result;
use crate::pool::Pool;
use crate::store::NodeStore;

/// Settings of a [`Pool`](crate::Pool) or [`Cluster`](crate::Cluster).
#[derive(Debug, Clone)]
#[must_use]
pub struct Config {
    pub(crate) dial_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) acquire_timeout: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) probes: usize,
    pub(crate) pool_size: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) refresh_interval: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) tls: Option<TlsConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dial_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(15),
            request_timeout: Some(Duration::from_secs(60)),
            acquire_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            probes: 10,
            pool_size: 8,
            idle_timeout: Duration::from_secs(60),
            refresh_interval: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            tls: None,
        }
    }
}

impl Config {
    /// The defaults, which the setters below name.
    pub fn new() -> Config {
        Config::default()
    }

    /// Limit on connecting to one address; 5 s.
    pub fn dial_timeout(self, timeout: Duration) -> Config {
        Config {
            dial_timeout: timeout,
            ..self
        }
    }

    /// Limit on one search for the leader over all members; 15 s.
    pub fn attempt_timeout(self, timeout: Duration) -> Config {
        Config {
            attempt_timeout: timeout,
            ..self
        }
    }

    /// Limit on how long a request may see no progress, neither a byte sent nor one received; 60 s.
    /// `None` waits for ever.
    pub fn request_timeout(self, timeout: Option<Duration>) -> Config {
        Config {
            request_timeout: timeout,
            ..self
        }
    }

    /// Limit on getting a connection: waiting for one to come back to the pool, and searching for
    /// the leader as often as it takes; 30 s.
    pub fn acquire_timeout(self, timeout: Duration) -> Config {
        Config {
            acquire_timeout: timeout,
            ..self
        }
    }

    /// Pause between searches for the leader: the first, doubled up to the last; 10 ms to 1 s.
    pub fn backoff(self, first: Duration, last: Duration) -> Config {
        Config {
            backoff_min: first,
            backoff_max: last.max(first),
            ..self
        }
    }

    /// Number of members that are asked for the leader at once, at least 1; 10.
    pub fn probes(self, probes: usize) -> Config {
        Config {
            probes: probes.max(1),
            ..self
        }
    }

    /// Number of connections that a pool opens at most, at least 1; 8.
    pub fn pool_size(self, size: usize) -> Config {
        Config {
            pool_size: size.max(1),
            ..self
        }
    }

    /// How long an unused connection is kept; 60 s.
    pub fn idle_timeout(self, timeout: Duration) -> Config {
        Config {
            idle_timeout: timeout,
            ..self
        }
    }

    /// How often the node store is brought up to date from the leader; 30 s.
    pub fn refresh_interval(self, interval: Duration) -> Config {
        Config {
            refresh_interval: interval,
            ..self
        }
    }

    /// When [`Pool::execute`] and [`Pool::query`] try again.
    pub fn retry(self, policy: RetryPolicy) -> Config {
        Config {
            retry: policy,
            ..self
        }
    }

    /// TLS on connections over TCP, with our certificate and the authorities that servers have to be
    /// vouched for by; none unless set. Abstract unix sockets stay plain.
    pub fn tls(self, tls: TlsConfig) -> Config {
        Config {
            tls: Some(tls),
            ..self
        }
    }

    /// A pool with these settings; see [`Pool::connect`].
    ///
    /// # Errors
    /// As [`Pool::connect`].
    pub fn connect(self, store: impl NodeStore + 'static, database: &str) -> Result<Pool> {
        Pool::new(self, store, database)
    }
}

/// How often to try again what was not carried out.
///
/// Only failures that time or another server can mend are worth it: no leader, not leader, busy, a
/// lost connection. And only what was certainly not done is done again, unless
/// [`RetryPolicy::idempotent`] says that doing it twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    pub(crate) attempts: u32,
    pub(crate) idempotent: bool,
    pub(crate) pause_min: Duration,
    pub(crate) pause_max: Duration,
}

impl Default for RetryPolicy {
    /// Ten attempts, with pauses from 10 ms doubling up to 1 s.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 10,
            idempotent: false,
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_secs(1),
        }
    }
}

impl RetryPolicy {
    /// One attempt.
    pub fn never() -> RetryPolicy {
        RetryPolicy::attempts(1)
    }

    /// So many attempts, at least 1.
    pub fn attempts(attempts: u32) -> RetryPolicy {
        RetryPolicy {
            attempts: attempts.max(1),
            ..RetryPolicy::default()
        }
    }

    /// The same, also when it is unknown whether the attempt was carried out.
    pub fn idempotent(self) -> RetryPolicy {
        RetryPolicy {
            idempotent: true,
            ..self
        }
    }

    /// Pause before the attempt after the `failed`th, counted from 1.
    pub(crate) fn pause(&self, failed: u32) -> Duration {
        let factor = 1u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.pause_min.saturating_mul(factor).min(self.pause_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(1), Duration::from_millis(10));
        assert_eq!(policy.pause(2), Duration::from_millis(20));
        assert_eq!(policy.pause(7), Duration::from_millis(640));
        assert_eq!(policy.pause(8), Duration::from_secs(1));
        assert_eq!(policy.pause(u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn counts_have_a_least_value() {
        assert_eq!(RetryPolicy::attempts(0).attempts, 1);
        let config = Config::new().probes(0).pool_size(0);
        assert_eq!((config.probes, config.pool_size), (1, 1));
    }
}
