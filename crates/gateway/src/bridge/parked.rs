//! Calls that wait at a legacy server for what their client has to be asked: so many at a time, of one caller and in all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::app::App;
use crate::session::lock;

/// How many calls of each principal wait.
#[derive(Default)]
pub struct Parked(Mutex<HashMap<[u8; 16], usize>>);

/// One of them, until it is dropped.
pub struct Waiting {
    app: Arc<App>,
    principal: [u8; 16],
}

impl Parked {
    /// Whether one more of this principal's may wait.
    pub fn has_room(&self, app: &App, principal: &[u8; 16]) -> bool {
        Self::fits(&lock(&self.0), app, principal)
    }

    fn fits(parked: &HashMap<[u8; 16], usize>, app: &App, principal: &[u8; 16]) -> bool {
        let limits = &app.config.limits;
        parked.get(principal).is_none_or(|own| *own < limits.parked_per_caller)
            && parked.values().sum::<usize>() < limits.parked
    }

    /// Counts one in; None where there are too many.
    pub fn enter(app: &Arc<App>, principal: [u8; 16]) -> Option<Waiting> {
        let mut parked = lock(&app.parked.0);
        if !Self::fits(&parked, app, &principal) {
            return None;
        }
        *parked.entry(principal).or_default() += 1;
        Some(Waiting { app: Arc::clone(app), principal })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut parked = lock(&self.app.parked.0);
        if let Some(own) = parked.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                parked.remove(&self.principal);
            }
        }
    }
}
