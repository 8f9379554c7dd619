//! What the tests are written with: processes that can be killed, and clients.

mod client;
mod collector;
mod cutter;
mod dice;
mod gateway;
pub(crate) mod http;
mod mcp;
mod nginx;
pub(crate) mod node;
mod process;
mod python;
mod ran;
mod redis;
pub(crate) mod resuming;
mod setup;
mod upstream;

pub(crate) use client::Client;
pub(crate) use collector::Collector;
pub(crate) use cutter::Cutter;
pub(crate) use dice::{Dice, setting};
pub(crate) use gateway::Gateway;
pub(crate) use mcp::{Answer, MODERN, Mcp, request};
pub(crate) use nginx::Balancer;
pub(crate) use process::{Process, free_port, until};
pub(crate) use python::command as python_command;
pub(crate) use ran::{Ran, run, run_with};
pub(crate) use redis::{Engine, Redis};
pub(crate) use setup::{installed, script};
pub(crate) use upstream::Upstream;

/// Makes a `#[test]` of each function for each upstream that it is to hold for.
macro_rules! over_each_upstream {
    ($($test:ident),+ $(,)?) => {
        mod rmcp {
            $(#[test] fn $test() { super::$test($crate::harness::Upstream::rmcp()); })+
        }
        mod python1 {
            $(#[test] fn $test() { super::$test($crate::harness::Upstream::python1()); })+
        }
        mod python2 {
            $(#[test] fn $test() { super::$test($crate::harness::Upstream::python2()); })+
        }
        // By this name they belong to another part of scripts/test.
        mod peers {
            mod typescript1 {
                $(#[test] fn $test() { super::super::$test($crate::harness::Upstream::typescript1()); })+
            }
            mod typescript2 {
                $(#[test] fn $test() { super::super::$test($crate::harness::Upstream::typescript2()); })+
            }
        }
    };
}
pub(crate) use over_each_upstream;
