//! What an event loop is built with, checked once.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{
    Dispatch, Error, Gather, Limits, LoadBalance, PollManager, Result, Spin, default_loops,
};

use crate::admission::AdmissionOptions;
use crate::systemd::Systemd;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) admission: AdmissionOptions,
    pub(crate) slow_callback: Option<Duration>,
    pub(crate) loops: usize,
    pub(crate) balance: LoadBalance,
    pub(crate) spin: Spin,
    pub(crate) gather: Gather,
    pub(crate) manager: Option<Arc<PollManager>>,
    pub(crate) dispatch: Dispatch,
    pub(crate) limits: Limits,
    pub(crate) systemd: Option<Systemd>,
    /// It has no callback for connections.
    pub(crate) only_datagrams: bool,
}

impl Settings {
    /// Checks what can be checked before anything is started.
    pub(crate) fn validate(&self) -> Result<()> {
        self.limits.validate()?;
        self.admission.validate()?;
        if self.slow_callback == Some(Duration::ZERO) {
            return Err(Error::config(
                "slow_callback is 0, so every callback would be; None is off",
            ));
        }
        self.dispatch.validate()?;
        if self.manager.is_none() {
            PollManager::validate(self.loops)?;
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            admission: AdmissionOptions::default(),
            slow_callback: None,
            loops: default_loops(),
            balance: LoadBalance::default(),
            spin: Spin::default(),
            gather: Gather::default(),
            manager: None,
            dispatch: Dispatch::default(),
            limits: Limits::default(),
            systemd: None,
            only_datagrams: false,
        }
    }
}
