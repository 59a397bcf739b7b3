//! Takes one check per line of standard input and answers each with one line: starting a program costs more than most checks.
//!
//! ```text
//! sequence PATH OPERATION data|zeroes|anything seed=N [threads=N] [steps=N] [image=PATH] [shared=PATH]
//! history PATH seed=N [threads=N] [operations=N] [blocks=N] [atomic=0|1] [shared=PATH]
//! zones PATH OPERATION seed=N [threads=N] [steps=N] [image=PATH]
//! protection PATH image=PATH seed=N [steps=N]
//! load PATH verify|flush [seed=N] [threads=N] [shared=PATH]     starts it
//! progress                                                      requests of the load that succeeded, and failed
//! settle [limit_ms=N]                                           ends it
//! examine PATH                                                  what it wrote must be in this device or file
//! ```
//! Answers: `ok N`, the number of requests or blocks, and for a load a second number, of those that failed; or `wrong SENTENCE`.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ublk_check::disk::BlockDevice;
use ublk_check::sequence::{Expect, Operation};
use ublk_check::survival::{Account, Kind, Load};
use ublk_check::{history, protection, sequence, survival, zones};

fn main() -> std::io::Result<()> {
    let mut background = Background::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match background.answer(&words).unwrap_or_else(|| answer(&words).map(|done| (done, 0))) {
            Ok((done, failed)) => format!("ok {done} {failed}"),
            Err(sentence) => format!("wrong {}", sentence.replace('\n', " ")),
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

/// The load that runs, and the account of the one that ran.
#[derive(Default)]
struct Background {
    load: Option<Load>,
    account: Option<Account>,
}

impl Background {
    /// None: the line is not about a load.
    fn answer(&mut self, words: &[&str]) -> Option<Result<(u64, u64), String>> {
        Some(match *words {
            ["load", path, kind, ref settings @ ..] => self.start(path, kind, settings),
            ["progress"] => self.load.as_ref().map(Load::counts).ok_or("no load runs".into()),
            ["settle", ref settings @ ..] => self.settle(settings),
            ["examine", path] => {
                let account = self.account.as_ref().ok_or("no load has ended");
                account
                    .map_err(String::from)
                    .and_then(|account| account.examine(Path::new(path)))
                    .map(|found| (found, 0))
            }
            _ => return None,
        })
    }

    fn start(&mut self, path: &str, kind: &str, settings: &[&str]) -> Result<(u64, u64), String> {
        let settings = Settings::parse(settings)?;
        let plan = survival::Plan {
            kind: named(&[("verify", Kind::Verify), ("flush", Kind::Flush)], kind)?,
            seed: settings.number("seed", 1)?,
            threads: settings.number("threads", 3)?,
            shared: settings.path("shared"),
        };
        self.load = Some(Load::start(Path::new(path), &plan)?);
        Ok((0, 0))
    }

    fn settle(&mut self, settings: &[&str]) -> Result<(u64, u64), String> {
        let limit = Settings::parse(settings)?.number("limit_ms", 10_000)?;
        let load = self.load.take().ok_or("no load runs")?;
        let account = self.account.insert(load.settle(Duration::from_millis(limit))?);
        Ok(account.counts())
    }
}

fn answer(words: &[&str]) -> Result<u64, String> {
    match words[..] {
        ["sequence", path, operation, expect, ref settings @ ..] => {
            let settings = Settings::parse(settings)?;
            let plan = sequence::Plan {
                operation: named(&Operation::ALL, operation)?,
                expect: named(&EXPECTATIONS, expect)?,
                seed: settings.number("seed", 1)?,
                threads: settings.number("threads", 3)?,
                steps: settings.number("steps", 12)?,
                image: settings.path("image"),
                shared: settings.path("shared"),
            };
            sequence::check(&open(path)?, &plan)
        }
        ["history", path, ref settings @ ..] => {
            let settings = Settings::parse(settings)?;
            let plan = history::Plan {
                seed: settings.number("seed", 1)?,
                threads: settings.number("threads", 4)?,
                operations: settings.number("operations", 10_000)?,
                blocks: settings.number("blocks", 4)? as u32,
                is_atomic: settings.number("atomic", 1)? == 1,
                shared: settings.path("shared"),
            };
            history::check(&open(path)?, &plan)
        }
        ["zones", path, operation, ref settings @ ..] => {
            let settings = Settings::parse(settings)?;
            let plan = zones::Plan {
                kinds: named(&zones::OPERATIONS, operation)?,
                seed: settings.number("seed", 1)?,
                threads: settings.number("threads", 3)?,
                steps: settings.number("steps", 24)?,
                image: settings.path("image"),
            };
            zones::check(&open(path)?, &plan)
        }
        ["protection", path, ref settings @ ..] => {
            let settings = Settings::parse(settings)?;
            let plan = protection::Plan {
                seed: settings.number("seed", 1)?,
                steps: settings.number("steps", 2)?,
                image: settings.path("image").ok_or("no image=PATH")?,
            };
            protection::check(&open(path)?, &plan)
        }
        _ => Err(format!("\"{}\" is no check", words.join(" "))),
    }
}

const EXPECTATIONS: [(&str, Expect); 3] =
    [("data", Expect::Data), ("zeroes", Expect::Zeroes), ("anything", Expect::Anything)];

fn open(path: &str) -> Result<BlockDevice, String> {
    BlockDevice::open(Path::new(path)).map_err(|error| format!("{path}: {error}"))
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, String> {
    let found = names.iter().find(|(known, _)| *known == name);
    found
        .map(|&(_, value)| value)
        .ok_or_else(|| format!("\"{name}\" is none of {:?}", names.iter().map(|(known, _)| known).collect::<Vec<_>>()))
}

/// Words such as `seed=7`.
struct Settings<'a>(HashMap<&'a str, &'a str>);

impl<'a> Settings<'a> {
    fn parse(words: &[&'a str]) -> Result<Settings<'a>, String> {
        let pairs =
            words.iter().map(|word| word.split_once('=').ok_or_else(|| format!("\"{word}\" is not NAME=VALUE")));
        Ok(Settings(pairs.collect::<Result<_, _>>()?))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(Into::into)
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.0.get(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name}={text} is no number")))
    }
}
