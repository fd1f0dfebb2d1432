//! Calls of one plugin that wait for their turn: one lane per agent, and the lanes take turns.
//!
//! So an agent with one call is not behind the hundreds of another, and where there is no room for all, the one with the most waiting
//! gives some of its room up. An agent that has the plugin to itself has one lane: first come, first served, as long as it likes.
//!
//! Invariants: no lane is empty; of one agent's calls the older is never taken after the younger, unless something about it forbids
//! it; a call that has to go because there are too many has not been begun.
//! Elsewhere: how many there may be in all is for `handle` to say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{ErrorBody, ErrorCode};

use super::call::Call;

/// When a caller that was turned away because of a full queue may come back.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A lane that has become empty is kept for the next agent, unless it was longer than this.
const SPARE_CALLS_MAX: usize = 256;

/// What is told to a caller for whom there is no room.
#[must_use]
pub fn overloaded(plugin: &str, most: u32) -> ErrorBody {
    ErrorBody::new(ErrorCode::Overloaded, format!("{plugin} has {most} calls under way or waiting, as many as it may"))
        .with_retry_after_ms(u64::try_from(RETRY_AFTER.as_millis()).unwrap_or(u64::MAX))
        .with_hint("`limits.concurrency` and `limits.queue` in plugin.json set how many it takes")
}

/// Calls that wait.
#[derive(Debug, Default)]
pub struct Queue {
    /// The one whose turn it is stands first.
    lanes: VecDeque<Lane>,
    len: usize,
    spare: VecDeque<Arc<Call>>,
}

/// The calls of one agent.
#[derive(Debug)]
struct Lane {
    agent: usize,
    calls: VecDeque<Arc<Call>>,
}

impl Queue {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a call behind the others of its agent.
    pub fn push(&mut self, call: Arc<Call>) {
        self.len += 1;
        let agent = call.agent();
        match self.lanes.iter_mut().find(|lane| lane.agent == agent) {
            Some(lane) => lane.calls.push_back(call),
            None => {
                let mut calls = std::mem::take(&mut self.spare);
                calls.push_back(call);
                self.lanes.push_back(Lane { agent, calls });
            }
        }
    }

    /// Makes room for a call of that agent by what another one has too much: its youngest call is returned, and has to end. `None` if
    /// nobody has more than the agent itself would have. `works`: whether the plugin works for it already.
    #[must_use]
    pub fn displace(&mut self, agent: usize, works: bool) -> Option<Arc<Call>> {
        self.retain(|call| !call.is_done());
        let own = self.lanes.iter().find(|lane| lane.agent == agent).map_or(0, |lane| lane.calls.len());
        let (place, longest) = self.lanes.iter().enumerate().max_by_key(|(_, lane)| lane.calls.len())?;
        // One more than the other would have is no reason, or the two would displace each other without end.
        let enough = if own == 0 && !works { 1 } else { own + 2 };
        if longest.agent == agent || longest.calls.len() < enough {
            return None;
        }
        let call = self.lanes[place].calls.pop_back();
        self.len -= usize::from(call.is_some());
        self.leave_out_empty();
        call
    }

    /// Takes the next one that `may` go now, and lets the other agents go before the next of the same.
    pub fn take_next(&mut self, may: impl Fn(&Call) -> bool) -> Option<Arc<Call>> {
        for turn in 0..self.lanes.len() {
            let lane = &mut self.lanes[turn];
            if let Some(place) = lane.calls.iter().position(|call| may(call))
                && let Some(call) = lane.calls.remove(place)
            {
                self.len -= 1;
                if let Some(lane) = self.lanes.remove(turn) {
                    if !lane.calls.is_empty() {
                        self.lanes.push_back(lane);
                    } else if lane.calls.capacity() <= SPARE_CALLS_MAX {
                        self.spare = lane.calls;
                    }
                }
                return Some(call);
            }
        }
        None
    }

    /// Keeps those of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&Arc<Call>) -> bool) {
        for lane in &mut self.lanes {
            lane.calls.retain(&mut keep);
        }
        self.leave_out_empty();
        self.len = self.lanes.iter().map(|lane| lane.calls.len()).sum();
    }

    fn leave_out_empty(&mut self) {
        self.lanes.retain(|lane| !lane.calls.is_empty());
    }

    /// All of them, those of each agent in their order.
    pub fn drain(&mut self) -> Vec<Arc<Call>> {
        self.len = 0;
        self.lanes.drain(..).flat_map(|lane| lane.calls).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::call::Counters;
    use crate::plugin::call::tests::{Heard, call_of};

    /// Calls of that many agents, so many of each, in the order of the agents.
    fn queue(each: &[usize]) -> (Queue, Vec<Arc<Heard>>, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let agents: Vec<_> = each.iter().map(|_| Arc::new(Heard::default())).collect();
        let mut queue = Queue::default();
        for (count, agent) in each.iter().zip(&agents) {
            for number in 0..*count {
                queue.push(call_of(agent, number as u64, &counters));
            }
        }
        (queue, agents, counters)
    }

    /// Whose call it is, and which.
    fn which(call: &Call, agents: &[Arc<Heard>]) -> (usize, u64) {
        let agent = agents.iter().position(|agent| Arc::as_ptr(agent).addr() == call.agent()).unwrap();
        (agent, call.callers_id())
    }

    #[test]
    fn agents_take_turns_and_each_ones_calls_keep_their_order() {
        let (mut queue, agents, _) = queue(&[3, 1, 2]);
        let mut order = Vec::new();
        while let Some(call) = queue.take_next(|_| true) {
            order.push(which(&call, &agents));
        }
        assert_eq!(order, [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2)]);
        assert_eq!((queue.len(), queue.lanes.len()), (0, 0));
    }

    #[test]
    fn what_may_not_go_yet_lets_others_go_before() {
        let (mut queue, agents, _) = queue(&[2, 2]);
        let call = queue.take_next(|call| call.callers_id() == 1).unwrap();
        assert_eq!(which(&call, &agents), (0, 1));
        assert!(queue.take_next(|_| false).is_none());
        assert_eq!(which(&queue.take_next(|_| true).unwrap(), &agents), (1, 0));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn the_one_with_the_most_gives_up_its_youngest_until_all_have_as_much() {
        let (mut queue, agents, counters) = queue(&[6, 1]);
        let newcomer = Arc::new(Heard::default());
        let displace = |queue: &mut Queue, agent: &Arc<Heard>, number| {
            let gone = queue.displace(Arc::as_ptr(agent).addr(), false).map(|call| which(&call, &agents));
            if gone.is_some() {
                queue.push(call_of(agent, number, &counters));
            }
            gone
        };
        assert_eq!(displace(&mut queue, &newcomer, 0), Some((0, 5)));
        assert_eq!(displace(&mut queue, &newcomer, 1), Some((0, 4)));
        assert_eq!(displace(&mut queue, &agents[1], 1), Some((0, 3)));
        assert_eq!(displace(&mut queue, &newcomer, 2), None, "3, 2 and 2: nobody has two more");
        assert_eq!(displace(&mut queue, &agents[0], 6), None, "the one that floods displaces nobody");
        assert_eq!(queue.len(), 7);
        assert!(queue.displace(0, true).is_some(), "one for whom the plugin works has to find more");
    }

    #[test]
    fn of_a_single_place_the_one_without_any_gets_it_once() {
        let (mut queue, agents, _) = queue(&[1]);
        assert!(queue.displace(0, true).is_none());
        assert_eq!(which(&queue.displace(0, false).unwrap(), &agents), (0, 0));
        assert!(queue.displace(0, false).is_none() && queue.is_empty());
    }
}
