const { createDevice } = require('ublk')

// In a worker, whose entry is a file of the package of its own.
createDevice({ backend: './backend.mjs', backendOptions: { size: 16 << 20 } }).then((device) => console.log(device.path))
