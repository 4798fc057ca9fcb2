import { constants } from 'node:os';
import t from 'tap';
import { errnoName, isErrno, SyscallError } from '../../../src/host/errno.ts';

t.test('errnoName() gives one name for each number, EAGAIN and EOPNOTSUPP where there are two', (t) => {
  t.equal(errnoName(constants.errno.EAGAIN), 'EAGAIN');
  t.equal(errnoName(constants.errno.EOPNOTSUPP), 'EOPNOTSUPP');
  t.equal(errnoName(constants.errno.ENOENT), 'ENOENT');
  t.equal(errnoName(9999), 'errno 9999');
  t.end();
});

t.test('isErrno() matches by name and nothing but failed calls', (t) => {
  const error = new SyscallError('openat', constants.errno.EAGAIN, '"x"');
  t.ok(isErrno(error, 'ENOENT', 'EAGAIN'));
  t.notOk(isErrno(error, 'ENOENT'));
  t.notOk(isErrno(new Error('EAGAIN'), 'EAGAIN'));
  t.match(error, { code: 'E_SYSCALL', message: 'Cannot openat "x": EAGAIN' });
  t.end();
});
