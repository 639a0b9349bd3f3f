//! Failures caused by this machine or process, not by the server.

use std::{
    error::Error,
    io::{self, ErrorKind},
};

use rustix::io::Errno;

use super::cause::Causes;
pub(super) use crate::observe::telemetry::metrics::LocalResource;

/// Returns the resource that was missing when the system failed to open a connection (`socket(2)`,
/// `connect(2)`) or to use it (`sendmsg(2)`); `None` if the network or the server is the cause.
#[must_use]
pub(super) fn missing_resource(error: &io::Error) -> Option<LocalResource> {
    let Some(errno) = Errno::from_io_error(error) else { return missing_resource_of_kind(error.kind()) };
    Some(match errno {
        Errno::MFILE | Errno::NFILE => LocalResource::Descriptors,
        Errno::ADDRNOTAVAIL | Errno::ADDRINUSE => LocalResource::Ports,
        // connect(2): EAGAIN if the kernel's routing cache is full.
        Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN => LocalResource::Memory,
        Errno::PERM | Errno::ACCESS => LocalResource::Permission,
        _ => return None,
    })
}

/// The same for an error without an errno: the HTTP/2 library passes only the kind of a connection
/// error to its streams.
const fn missing_resource_of_kind(kind: ErrorKind) -> Option<LocalResource> {
    match kind {
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Some(LocalResource::Ports),
        ErrorKind::OutOfMemory => Some(LocalResource::Memory),
        ErrorKind::PermissionDenied => Some(LocalResource::Permission),
        _ => None,
    }
}

/// The same for an error that may wrap an [`io::Error`].
#[must_use]
pub(super) fn missing_resource_in(error: &(dyn Error + 'static)) -> Option<LocalResource> {
    Causes::from_error(error).filter_map(<dyn Error>::downcast_ref).find_map(missing_resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_this_machine_are_local() {
        use LocalResource::{Descriptors, Memory, Permission, Ports};
        for (errno, expected) in [
            (Errno::MFILE, Some(Descriptors)),
            (Errno::NFILE, Some(Descriptors)),
            (Errno::ADDRNOTAVAIL, Some(Ports)),
            (Errno::ADDRINUSE, Some(Ports)),
            (Errno::NOBUFS, Some(Memory)),
            (Errno::NOMEM, Some(Memory)),
            (Errno::AGAIN, Some(Memory)),
            (Errno::PERM, Some(Permission)),
            (Errno::ACCESS, Some(Permission)),
            (Errno::CONNREFUSED, None),
            (Errno::CONNRESET, None),
            (Errno::TIMEDOUT, None),
            (Errno::HOSTUNREACH, None),
            (Errno::NETUNREACH, None),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(missing_resource(&error), expected, "{errno:?}");
            let wrapped = io::Error::other(error);
            assert_eq!(missing_resource_in(&wrapped), expected, "{errno:?}");
        }
        assert_eq!(missing_resource(&io::Error::other("no errno")), None);
        for (kind, expected) in [
            (ErrorKind::PermissionDenied, Some(Permission)),
            (ErrorKind::OutOfMemory, Some(Memory)),
            (ErrorKind::AddrNotAvailable, Some(Ports)),
            (ErrorKind::ConnectionReset, None),
            (ErrorKind::BrokenPipe, None),
            (ErrorKind::TimedOut, None),
        ] {
            assert_eq!(missing_resource(&io::Error::new(kind, "of a stream")), expected, "{kind:?}");
        }
    }
}
