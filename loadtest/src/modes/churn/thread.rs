//! One thread with its cycles: a task for each that may be under way at a time, from the start of
//! the load until all have ended.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use monoio::time::sleep;

use super::{
    cycle,
    plan::ChurnPlan,
    thread_state::{Gauges, ThreadState},
    turns::Turns,
};
use crate::{
    count::timeline::PortionSender,
    drive::{pacer::Pause, runtime::build_runtime},
    plan::schedule::{GRACE_MAX, GRACE_QUIET, Schedule},
};

/// How often a thread looks at the schedule. No cycle waits for it but the first ones of a closed
/// loop.
const TICK: Duration = Duration::from_millis(5);

/// How long a task of a closed loop waits after a cycle that went wrong: a server that refuses is
/// told from one that is overwhelmed, and local ports last.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Runs thread number `number` of the plan until all of its cycles have ended.
pub(super) fn run(
    plan: Arc<ChurnPlan>,
    schedule: Arc<Schedule>,
    gauges: Arc<Gauges>,
    portion_sender: PortionSender,
    number: usize,
) -> io::Result<()> {
    build_runtime()?.block_on(async move {
        let state = Rc::new(ThreadState::new(plan, schedule, gauges, portion_sender, number));
        let is_open = state.plan.load.is_open();
        let pause = is_open.then(|| Pause::new(state.plan.wait)).transpose()?;
        state.count_ready();
        let may_begin = |schedule: &Schedule| {
            if is_open { schedule.origin().is_some() } else { schedule.has_started() }
        };
        while !may_begin(&state.schedule) {
            if state.schedule.is_abandoned() {
                return Ok(());
            }
            sleep(TICK).await;
        }
        let turns = Rc::new(Turns::new(&state, number));
        if let Some(pause) = pause {
            let (turns, state) = (Rc::clone(&turns), Rc::clone(&state));
            monoio::spawn(async move {
                let paced = turns.pace(&state, &pause).await;
                *state.fault.borrow_mut() = paced.err();
            });
        }
        let tasks = state.plan.threads.share_of(number, state.plan.connections);
        state.tasks.set(tasks);
        for _ in 0..tasks {
            let (turns, state) = (Rc::clone(&turns), Rc::clone(&state));
            monoio::spawn(async move {
                counting_turns(&state, one_after_another(&turns, &state)).await;
                state.tasks.update(|tasks| tasks - 1);
            });
        }
        conduct(&turns, &state).await?;
        state.hand_over_rest();
        Ok(())
    })
}

/// Begins cycles until the load ends.
async fn one_after_another(turns: &Turns, state: &ThreadState) {
    while let Some(turn) = turns.next(state).await {
        let begin = state.count_begin(turn);
        let outcome = cycle::carry_out(begin, state).await;
        state.count_end(begin, &outcome);
        if outcome.is_err() && !state.plan.load.is_open() {
            sleep(FAILURE_PAUSE).await;
        }
    }
}

/// The output of `future`, each turn of which is counted.
async fn counting_turns<F: Future>(state: &ThreadState, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        state.busy_turns.update(|turns| turns.wrapping_add(1));
        future.as_mut().poll(cx)
    })
    .await
}

/// Follows the schedule until all cycles have ended, or are waited for no longer: those that are
/// under way then are missing.
async fn conduct(turns: &Turns, state: &ThreadState) -> io::Result<()> {
    while state.tasks.get() > 0 {
        sleep(TICK).await;
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        let now = state.schedule.now();
        state.hand_over_if_due(now);
        if state.schedule.has_ended(now) {
            turns.wake_due(state);
        }
        if is_over(state, now) {
            state.tally.borrow_mut().count_missing(state.under_way.get());
            return Ok(());
        }
    }
    Ok(())
}

fn is_over(state: &ThreadState, now: u64) -> bool {
    if !state.schedule.has_ended(now) {
        return false;
    }
    let ended_for = now - state.schedule.end().min(now);
    let quiet_for = ended_for.min(now - state.last_end.get().min(now));
    state.schedule.is_abandoned()
        || u128::from(quiet_for) > GRACE_QUIET.as_nanos()
        || u128::from(ended_for) > GRACE_MAX.as_nanos()
}
