//! Reports are in the words of the rules.

use super::*;
