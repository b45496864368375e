//! What the system refuses, and the generator does without: noted by whoever meets it, and said once,
//! with the result. It is the process that is refused, so there is one list for all of it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::warning::{Warning, WarningCode};

static NOTED: Mutex<Vec<Warning>> = Mutex::new(Vec::new());

fn list() -> MutexGuard<'static, Vec<Warning>> {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what is done without, unless something of its kind is noted already.
#[cold]
pub(crate) fn note(code: WarningCode, text: impl FnOnce() -> String) {
    let mut noted = list();
    if !noted.iter().any(|warning| warning.code == code) {
        noted.push(Warning::new(code, text()));
    }
}

/// Whether something of this kind is noted.
pub(crate) fn is_noted(code: WarningCode) -> bool {
    list().iter().any(|warning| warning.code == code)
}

/// Everything that is done without.
pub fn noted() -> Vec<Warning> {
    list().clone()
}
