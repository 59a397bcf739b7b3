/**
 * The program: reads its flags, serves until a signal, and ends.
 */

export async function main(_argv: string[] = process.argv.slice(2)): Promise<void> {
  throw new Error('not built yet')
}
