//! Turns decisions into a filter: one search tree over the numbers, and at its leaves an answer or checks of arguments.
//!
//! The program is written backwards. Every jump goes forward, so what it leads to is already there, its distance is known, and where
//! it is farther than the 255 instructions that a condition can jump, a stepping stone is put in between.
//!
//! Until arguments are looked at, only number and architecture are loaded: the kernel tries such programs once with every number, and
//! never runs them again for the numbers that are allowed whatever the arguments.

use std::collections::HashMap;

use super::evaluate::{ARGUMENTS, code};
use super::numbers::{ARCH_X86_64, X32_BIT};
use super::policy::{Action, Checks, Condition, Decisions, Leaf, Test, Width};

/// The kernel's bound, `BPF_MAXINSNS`.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// How far a condition can jump.
const JUMP_MAX: usize = 255;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// One `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

/// The decisions need more instructions than the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter would have {0} instructions; the kernel takes {INSTRUCTIONS_MAX}")]
pub struct TooLong(pub usize);

impl Program {
    /// As the kernel takes it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for Instruction { code, yes, no, k } in &self.instructions {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*yes, *no]);
            bytes.extend(k.to_le_bytes());
        }
        bytes
    }

    /// How many instructions it has.
    pub fn instructions(&self) -> usize {
        self.instructions.len()
    }
}

/// The filter for these decisions.
pub fn program(decisions: &Decisions) -> Result<Program, TooLong> {
    let mut writer = Writer { backwards: Vec::new(), leaves: HashMap::new(), answers: HashMap::new() };
    let tree = writer.tree(decisions.ranges());
    let x32 = writer.answer(decisions.x32);
    writer.branch(code::AT_LEAST, X32_BIT, x32, tree);
    let number = writer.push(code::LOAD, NUMBER);
    let foreign = writer.answer(decisions.foreign);
    // The answer may just have been written, so the way to `number` is a jump like any other.
    writer.branch(code::EQUAL, ARCH_X86_64, number, foreign);
    writer.push(code::LOAD, ARCH);
    let mut instructions = writer.backwards;
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(TooLong(instructions.len()));
    }
    instructions.reverse();
    Ok(Program { instructions })
}

/// The place of an instruction, counted from the program's end.
#[derive(Clone, Copy, Debug)]
struct Label(usize);

struct Writer<'a> {
    /// What is written, the last instruction first.
    backwards: Vec<Instruction>,
    /// Where checks already stand; equal ones are shared.
    leaves: HashMap<&'a Checks, Label>,
    /// Where each answer stands that was written last.
    answers: HashMap<Action, Label>,
}

impl<'a> Writer<'a> {
    /// What searches these ranges, of which there is one at least.
    fn tree(&mut self, ranges: &'a [(u32, Leaf)]) -> Label {
        match ranges {
            [(_, leaf)] => self.leaf(leaf),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let right = self.tree(upper);
                let left = self.tree(lower);
                self.branch(code::AT_LEAST, upper[0].0, right, left)
            }
        }
    }

    fn leaf(&mut self, leaf: &'a Leaf) -> Label {
        match leaf {
            Leaf::Always(action) => self.answer(*action),
            Leaf::Checked(checks) => {
                if let Some(&label) = self.leaves.get(checks) {
                    return label;
                }
                let mut next = self.answer(checks.otherwise);
                for case in checks.cases.iter().rev() {
                    let mut fits = self.answer(case.action);
                    for condition in case.when.iter().rev() {
                        fits = self.condition(condition, fits, next);
                    }
                    next = fits;
                }
                self.leaves.insert(checks, next);
                next
            }
        }
    }

    fn condition(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        let lower = ARGUMENTS + 8 * u32::from(condition.argument);
        let upper = lower + 4;
        match (&condition.test, condition.width) {
            (Test::Any(bits), Width::Lower) => {
                self.branch(code::ANY_BIT, *bits as u32, yes, no);
                self.push(code::LOAD, lower)
            }
            (Test::Any(bits), Width::Whole) => {
                self.branch(code::ANY_BIT, (*bits >> 32) as u32, yes, no);
                let rest = self.push(code::LOAD, upper);
                self.branch(code::ANY_BIT, *bits as u32, yes, rest);
                self.push(code::LOAD, lower)
            }
            (Test::Is { mask, values }, Width::Lower) => {
                let mut next = no;
                for value in values.iter().rev() {
                    next = self.branch(code::EQUAL, *value as u32, yes, next);
                }
                self.masked_load(lower, *mask as u32)
            }
            (Test::Is { mask, values }, Width::Whole) => {
                let mut next = no;
                for value in values.iter().rev() {
                    self.branch(code::EQUAL, (*value >> 32) as u32, yes, next);
                    let rest = self.masked_load(upper, (*mask >> 32) as u32);
                    self.branch(code::EQUAL, *value as u32, rest, next);
                    next = self.masked_load(lower, *mask as u32);
                }
                next
            }
        }
    }

    fn masked_load(&mut self, offset: u32, mask: u32) -> Label {
        if mask != u32::MAX {
            self.push(code::AND, mask);
        }
        self.push(code::LOAD, offset)
    }

    /// An instruction that answers; a written one where a condition can reach it from here.
    fn answer(&mut self, action: Action) -> Label {
        match self.answers.get(&action) {
            // Half of the way, so that it is not out of reach again with the next instruction.
            Some(label) if self.backwards.len() - label.0 <= JUMP_MAX / 2 => *label,
            _ => {
                let label = self.push(code::RETURN, action.to_kernel());
                self.answers.insert(action, label);
                label
            }
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // A stepping stone for one moves the other a step further away.
        let yes = self.within_reach(yes, 1);
        let no = self.within_reach(no, 0);
        let [yes, no] = [yes, no].map(|label| {
            u8::try_from(self.distance(label))
                .expect("a stepping stone stands between what is farther away than a jump")
        });
        self.backwards.push(Instruction { code, yes, no, k });
        self.last()
    }

    /// The label, or a stepping stone that leads there, so that it is reached even after `more` further instructions.
    fn within_reach(&mut self, label: Label, more: usize) -> Label {
        let distance = self.distance(label);
        if distance + more <= JUMP_MAX {
            return label;
        }
        let target = self.backwards[label.0];
        match target.code {
            code::RETURN => self.push(code::RETURN, target.k),
            _ => self.push(code::JUMP, distance.try_into().expect("a program has far less than 2^32 instructions")),
        }
    }

    /// How many instructions an instruction written now would have to skip.
    fn distance(&self, label: Label) -> usize {
        self.backwards.len() - label.0 - 1
    }

    fn push(&mut self, code: u16, k: u32) -> Label {
        self.backwards.push(Instruction { code, yes: 0, no: 0, k });
        self.last()
    }

    fn last(&self) -> Label {
        Label(self.backwards.len() - 1)
    }
}
