export default ({ size }) => {
  const store = Buffer.alloc(size)
  return {
    size,
    sync: true,
    read(buf, offset) {
      store.copy(buf, 0, offset, offset + buf.length)
    },
    write(buf, offset) {
      buf.copy(store, offset)
    },
  }
}
