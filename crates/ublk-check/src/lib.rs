//! A user of a block device that says whether the device kept its promises. Knows nothing of ublk.
//!
//! ```text
//! buffer     memory for requests
//! disk       a block device past the page cache
//! evidence   what checks against a model have in common
//! sequence   random requests against a model in memory                      -> disk
//! history    concurrent operations on few blocks, proved to be linearizable     -> disk
//! zoned_disk a zoned block device                                            -> disk
//! zones      random requests and commands to zones, against a model          -> zoned_disk
//! protection blocks that change below a device                               -> disk
//! survival   writes that outlive the server of the device                        -> disk
//! ```
//! The program `ublk-check` takes the checks line by line.

#![deny(unsafe_code, missing_docs)]

pub mod buffer;
pub mod disk;
mod evidence;
pub mod history;
pub mod protection;
pub mod random;
pub mod sequence;
pub mod survival;
pub mod zoned_disk;
pub mod zones;
