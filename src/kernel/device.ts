/** Names of network devices, as rules may hold them. */

/**
 * Whether text can be the name of a device that a rule means and no other. Letters that mean something to nft or
 * iptables, such as * and +, would match other devices too; and `.` and `..` are no names in /proc/sys.
 */
export function isDeviceName(name: string): boolean {
  return /^[A-Za-z0-9_.@-]{1,15}$/.test(name) && !/^\.{1,2}$/.test(name);
}

/** A name for rules about a device: letters, digits and underscores, its own. */
export function labelOf(device: string, fingerprint: string): string {
  return `${device.replace(/[^A-Za-z0-9]/g, "_")}_${fingerprint}`;
}
