/** The systemd unit template that `ublk serve --print-unit` prints: one instance for each file of /etc/ublk. */

/**
 * No ProtectClock: old releases of systemd (249 has this fault, its issue 18142) forbid every device but the clock's with it, and
 * CAP_SYS_TIME is not there anyway.
 * @param program words that start the program
 */
export function unitText(program: string[]): string {
  const command = program.map((word) => `"${word.replaceAll('%', '%%')}"`).join(' ')
  return `# ublk@NAME.service keeps the devices of /etc/ublk/NAME.json up. Printed by \`ublk serve --print-unit\`; the program's path is in here:
# print it again when that moves.

[Unit]
Description=ublk devices of /etc/ublk/%i.json
Wants=modprobe@ublk_drv.service
After=modprobe@ublk_drv.service
# A supervisor that fails is started again for as long as it takes: its devices are up meanwhile.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=${command} serve --config /etc/ublk/%i.json
ExecReload=/bin/kill -HUP $MAINPID
# Servers are processes of their own, and serve on while the supervisor is stopped, fails or is replaced.
KillMode=process
OOMPolicy=continue
Restart=on-failure
RestartSec=1s
# Wrong words in the file stay wrong, and another supervisor that has the file keeps it.
RestartPreventExitStatus=2 6
# Ready when every device is live or has used up its tries; which one is not live, \`systemctl status\` says.
TimeoutStartSec=infinity
TimeoutStopSec=60s
WatchdogSec=30s
TasksMax=infinity
LimitMEMLOCK=infinity
LimitNOFILE=65536

# What servers need: /dev/ublk*, io_uring, their files wherever they are, the network (nbd), memory that can be written and run (JavaScript).
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_RESOURCE CAP_SYS_NICE CAP_IPC_LOCK CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_CHOWN CAP_KILL
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes

[Install]
WantedBy=multi-user.target
`
}
