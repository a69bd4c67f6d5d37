/** What rules call a network device. */

/** A name for rules about a device: letters, digits and underscores, its own. */
export function labelOf(device: string, fingerprint: string): string {
  return `${device.replace(/[^A-Za-z0-9]/g, "_")}_${fingerprint}`;
}
