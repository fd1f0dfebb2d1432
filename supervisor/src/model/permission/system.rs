//! `system_access`: what a plugin may learn about the host, file by file.
//!
//! The list is short on purpose: nothing in it names a process, a user or a secret, and nothing of it can be written. What the host has
//! in `/sys` is found at the same place inside; a plugin's `/proc` knows processes alone and takes no further files, so what the host
//! has there is found beneath `/host/proc`.

/// One thing to know about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemFile {
    Cpu,
    Cpuinfo,
    Loadavg,
    Meminfo,
    Stat,
    Uptime,
    Version,
}

impl SystemFile {
    /// All there are, in the order of their names.
    pub const ALL: [Self; 7] =
        [Self::Cpu, Self::Cpuinfo, Self::Loadavg, Self::Meminfo, Self::Stat, Self::Uptime, Self::Version];

    /// As manifests and the configuration write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuinfo => "cpuinfo",
            Self::Loadavg => "loadavg",
            Self::Meminfo => "meminfo",
            Self::Stat => "stat",
            Self::Uptime => "uptime",
            Self::Version => "version",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    /// Where the host has it.
    pub fn on_the_host(self) -> &'static str {
        match self {
            Self::Cpu => "/sys/devices/system/cpu",
            Self::Cpuinfo => "/proc/cpuinfo",
            Self::Loadavg => "/proc/loadavg",
            Self::Meminfo => "/proc/meminfo",
            Self::Stat => "/proc/stat",
            Self::Uptime => "/proc/uptime",
            Self::Version => "/proc/version",
        }
    }

    /// Where a plugin finds it.
    pub fn inside(self) -> &'static str {
        match self {
            Self::Cpu => "/sys/devices/system/cpu",
            Self::Cpuinfo => "/host/proc/cpuinfo",
            Self::Loadavg => "/host/proc/loadavg",
            Self::Meminfo => "/host/proc/meminfo",
            Self::Stat => "/host/proc/stat",
            Self::Uptime => "/host/proc/uptime",
            Self::Version => "/host/proc/version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_places_of_its_own() {
        for file in SystemFile::ALL {
            assert_eq!(SystemFile::named(file.name()), Some(file));
            let (host, inside) = (file.on_the_host(), file.inside());
            assert!(inside == host || inside == format!("/host{host}"), "{inside}");
        }
        assert_eq!(SystemFile::named("kcore"), None);
    }
}
