import { createDevice } from 'ublk'

const store = Buffer.alloc(16 << 20)
const device = await createDevice({
  backend: {
    size: store.length,
    read(buf, offset) {
      store.copy(buf, 0, offset, offset + buf.length)
    },
    write(buf, offset) {
      buf.copy(store, offset)
    },
  },
})
console.log(device.path)
